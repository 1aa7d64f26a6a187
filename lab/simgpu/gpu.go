package main

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// applicationXIDs are the program's fault, not the GPU's: NVIDIA's device plugin leaves the device healthy.
var applicationXIDs = []int{13, 31, 43, 45, 68, 109}

// xidEvent is one line that the driver would have written to the kernel log.
type xidEvent struct {
	XID  int
	Time time.Time
}

// GPU is one simulated device. A lost one has fallen off the bus: no series, unhealthy.
type GPU struct {
	Index                                    int
	UUID, PCI, Model, Node                   string
	Lost, Unhealthy                          bool
	LastXID                                  int // sticky, as DCGM_FI_DEV_XID_ERRORS is
	Events                                   []xidEvent
	DoubleBitErrors, RemapFailure, NVLinkErr int
}

// Healthy tells what the device plugin says about the device.
func (g GPU) Healthy() bool {
	return !g.Lost && !g.Unhealthy && !slices.ContainsFunc(g.Events, func(e xidEvent) bool { return !slices.Contains(applicationXIDs, e.XID) })
}

// GPUs is the node's devices; every change wakes those who wait on Changed.
type GPUs struct {
	mu      sync.Mutex
	all     []GPU
	changed chan struct{}
}

// NewGPUs returns count healthy devices.
func NewGPUs(node, model string, count int) *GPUs {
	gpus := &GPUs{changed: make(chan struct{})}
	for i := range count {
		gpus.all = append(gpus.all, healthy(i, node, model))
	}
	return gpus
}

func healthy(i int, node, model string) GPU {
	return GPU{Index: i, UUID: fmt.Sprintf("GPU-%s-%d", node, i), PCI: fmt.Sprintf("00000000:%02X:00.0", i+1), Model: model, Node: node}
}

// Snapshot returns a copy of the devices.
func (g *GPUs) Snapshot() []GPU {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := slices.Clone(g.all)
	for i := range out {
		out[i].Events = slices.Clone(out[i].Events)
	}
	return out
}

// Changed returns a channel that is closed at the next change.
func (g *GPUs) Changed() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.changed
}

// RaiseXID records an XID with the counters that come with it on a real device.
func (g *GPUs) RaiseXID(index, xid int, now time.Time) error {
	return g.change(index, func(gpu *GPU) {
		gpu.LastXID = xid
		gpu.Events = append(gpu.Events, xidEvent{xid, now})
		switch xid {
		case 48, 95:
			gpu.DoubleBitErrors++
		case 64:
			gpu.RemapFailure = 1
		case 74:
			gpu.NVLinkErr++
		}
	})
}

// Lose takes a device off the bus.
func (g *GPUs) Lose(index int) error {
	return g.change(index, func(gpu *GPU) { gpu.Lost = true })
}

// Distrust makes the device plugin call a device unhealthy; driver and exporter say nothing.
func (g *GPUs) Distrust(index int) error {
	return g.change(index, func(gpu *GPU) { gpu.Unhealthy = true })
}

// Heal gives a device back as new.
func (g *GPUs) Heal(index int) error {
	return g.change(index, func(gpu *GPU) { *gpu = healthy(gpu.Index, gpu.Node, gpu.Model) })
}

func (g *GPUs) change(index int, apply func(*GPU)) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if index < 0 || index >= len(g.all) {
		return fmt.Errorf("gpu: %d is not on this node; use 0 to %d", index, len(g.all)-1)
	}
	apply(&g.all[index])
	close(g.changed)
	g.changed = make(chan struct{})
	return nil
}
