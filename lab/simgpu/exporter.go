package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// xidWindow is dcgm-exporter's default window of DCGM_EXP_XID_ERRORS_COUNT.
const xidWindow = 300 * time.Second

type series struct {
	name, kind, help string
	value            func(GPU) float64
}

// The names are DCGM's; the values are those of an idle device unless a fault was set.
var table = []series{
	{"DCGM_FI_DEV_XID_ERRORS", "gauge", "Value of the last XID error encountered.", func(g GPU) float64 { return float64(g.LastXID) }},
	{"DCGM_FI_DEV_GPU_TEMP", "gauge", "GPU temperature (in C).", func(g GPU) float64 { return float64(42 + g.Index) }},
	{"DCGM_FI_DEV_POWER_USAGE", "gauge", "Power draw (in W).", func(g GPU) float64 { return 118 }},
	{"DCGM_FI_DEV_GPU_UTIL", "gauge", "GPU utilization (in %).", func(g GPU) float64 { return 0 }},
	{"DCGM_FI_DEV_SM_CLOCK", "gauge", "SM clock frequency (in MHz).", func(g GPU) float64 { return 1980 }},
	{"DCGM_FI_DEV_FB_USED", "gauge", "Framebuffer memory used (in MiB).", func(g GPU) float64 { return 4 }},
	{"DCGM_FI_DEV_FB_FREE", "gauge", "Framebuffer memory free (in MiB).", func(g GPU) float64 { return 81555 }},
	{"DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "counter", "Total number of double-bit volatile ECC errors.", func(g GPU) float64 { return float64(g.DoubleBitErrors) }},
	{"DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", "counter", "Number of remapped rows for uncorrectable errors.", func(g GPU) float64 { return 0 }},
	{"DCGM_FI_DEV_ROW_REMAP_FAILURE", "gauge", "Whether remapping of rows has failed.", func(g GPU) float64 { return float64(g.RemapFailure) }},
	{"DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL", "counter", "Total number of NVLink flow-control CRC errors.", func(g GPU) float64 { return float64(g.NVLinkErr) }},
	{"DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "counter", "Total number of PCIe retries.", func(g GPU) float64 { return 0 }},
}

// Exposition returns the Prometheus text of the devices that are on the bus.
func Exposition(gpus []GPU, now time.Time) string {
	var out strings.Builder
	for _, s := range table {
		fmt.Fprintf(&out, "# HELP %s %s\n# TYPE %s %s\n", s.name, s.help, s.name, s.kind)
		for _, gpu := range gpus {
			if !gpu.Lost {
				fmt.Fprintf(&out, "%s{%s} %v\n", s.name, labels(gpu), s.value(gpu))
			}
		}
	}
	const name = "DCGM_EXP_XID_ERRORS_COUNT"
	fmt.Fprintf(&out, "# HELP %s Count of XID Errors within user-specified time window.\n# TYPE %s gauge\n", name, name)
	for _, gpu := range gpus {
		writeCounts(&out, name, gpu, now)
	}
	return out.String()
}

func writeCounts(out *strings.Builder, name string, gpu GPU, now time.Time) {
	counts := map[int]int{}
	for _, event := range gpu.Events {
		if now.Sub(event.Time) < xidWindow && !gpu.Lost {
			counts[event.XID]++
		}
	}
	xids := make([]int, 0, len(counts))
	for xid := range counts {
		xids = append(xids, xid)
	}
	slices.Sort(xids)
	for _, xid := range xids {
		fmt.Fprintf(out, "%s{%s,window_size_in_ms=\"%d\",xid=\"%d\"} %d\n", name, labels(gpu), xidWindow.Milliseconds(), xid, counts[xid])
	}
}

func labels(g GPU) string {
	return fmt.Sprintf(`gpu="%d",UUID="%s",pci_bus_id="%s",device="nvidia%d",modelName="%s",Hostname="%s"`, g.Index, g.UUID, g.PCI, g.Index, g.Model, g.Node)
}
