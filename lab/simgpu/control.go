package main

import (
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// Control returns the handler that sets the devices' health:
//
//	POST /control/xid?gpu=0&xid=79   raise an XID
//	POST /control/gpu-lost?gpu=0     take the device off the bus
//	POST /control/unhealthy?gpu=0    the device plugin calls the device unhealthy, nobody says why
//	POST /control/heal?gpu=0         give the device back as new
//
// 204 when done, 400 with one line otherwise.
func Control(gpus *GPUs, now func() time.Time) http.Handler {
	mux := http.NewServeMux()
	handle := func(verb string, do func(gpu int, r *http.Request) error) {
		mux.HandleFunc("POST /control/"+verb, func(w http.ResponseWriter, r *http.Request) {
			gpu, err := number(r, "gpu")
			if err == nil {
				err = do(gpu, r)
			}
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			w.WriteHeader(http.StatusNoContent)
		})
	}
	handle("xid", func(gpu int, r *http.Request) error {
		xid, err := number(r, "xid")
		if err != nil {
			return err
		}
		return gpus.RaiseXID(gpu, xid, now())
	})
	handle("gpu-lost", func(gpu int, _ *http.Request) error { return gpus.Lose(gpu) })
	handle("unhealthy", func(gpu int, _ *http.Request) error { return gpus.Distrust(gpu) })
	handle("heal", func(gpu int, _ *http.Request) error { return gpus.Heal(gpu) })
	return mux
}

func number(r *http.Request, key string) (int, error) {
	value, err := strconv.Atoi(r.URL.Query().Get(key))
	if err != nil {
		return 0, fmt.Errorf("%s: %q is not a number; write a whole number", key, r.URL.Query().Get(key))
	}
	return value, nil
}
