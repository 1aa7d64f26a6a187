// simgpu simulates the GPUs of one lab node: NVIDIA's device plugin towards the kubelet and NVIDIA's DCGM exporter
// towards Prometheus. Nothing computes on these GPUs; their health can be set over a Unix socket.
package main

import (
	"flag"
	"log"
	"net"
	"net/http"
	"os"
	"time"
)

func main() {
	node := flag.String("node", "", "name of the node, part of every GPU's UUID")
	count := flag.Int("gpus", 2, "how many GPUs the node has")
	model := flag.String("model", "NVIDIA H100 80GB HBM3", "modelName label of the exporter")
	listen := flag.String("listen", ":9400", "address of the exporter")
	control := flag.String("control", "", "Unix socket that takes POST /control/...")
	plugins := flag.String("plugin-dir", "/var/lib/kubelet/device-plugins", "folder of the kubelet's socket")
	resource := flag.String("resource", "nvidia.com/gpu", "extended resource to announce")
	flag.Parse()
	if *node == "" || *control == "" {
		log.Fatal("simgpu: --node and --control are required")
	}
	gpus := NewGPUs(*node, *model, *count)
	go serveControl(*control, gpus)
	go serveMetrics(*listen, gpus)
	(&Plugin{Dir: *plugins, Resource: *resource, GPUs: gpus}).Run()
}

func serveMetrics(address string, gpus *GPUs) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = w.Write([]byte(Exposition(gpus.Snapshot(), time.Now())))
	})
	log.Fatal(http.ListenAndServe(address, mux))
}

func serveControl(path string, gpus *GPUs) {
	_ = os.Remove(path)
	listener, err := net.Listen("unix", path)
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.Serve(listener, Control(gpus, time.Now)))
}
