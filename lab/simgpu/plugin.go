package main

import (
	"context"
	"log"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const socketName = "simgpu.sock"

// Plugin speaks the kubelet's device-plugin protocol, v1beta1.
type Plugin struct {
	api.UnimplementedDevicePluginServer
	Dir, Resource string
	GPUs          *GPUs
}

// Run serves and registers for ever. A kubelet that starts empties the folder, so both happen again then.
func (p *Plugin) Run() {
	for {
		kubelet := inode(filepath.Join(p.Dir, "kubelet.sock"))
		if kubelet == 0 {
			time.Sleep(200 * time.Millisecond)
			continue
		}
		server, err := p.serve()
		if err == nil {
			err = p.register()
		}
		if err != nil {
			log.Printf("not registered: %v", err)
			time.Sleep(500 * time.Millisecond)
		}
		for err == nil && inode(filepath.Join(p.Dir, "kubelet.sock")) == kubelet && inode(p.socket()) != 0 {
			time.Sleep(200 * time.Millisecond)
		}
		if server != nil {
			server.Stop()
		}
	}
}

func (p *Plugin) socket() string { return filepath.Join(p.Dir, socketName) }

func (p *Plugin) serve() (*grpc.Server, error) {
	_ = os.Remove(p.socket())
	listener, err := net.Listen("unix", p.socket())
	if err != nil {
		return nil, err
	}
	server := grpc.NewServer()
	api.RegisterDevicePluginServer(server, p)
	go func() { _ = server.Serve(listener) }()
	return server, nil
}

func (p *Plugin) register() error {
	conn, err := grpc.NewClient("unix://"+filepath.Join(p.Dir, "kubelet.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err = api.NewRegistrationClient(conn).Register(ctx, &api.RegisterRequest{
		Version: api.Version, Endpoint: socketName, ResourceName: p.Resource, Options: &api.DevicePluginOptions{},
	})
	if err == nil {
		log.Printf("registered %s", p.Resource)
	}
	return err
}

// GetDevicePluginOptions says that no optional call is wanted.
func (p *Plugin) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return &api.DevicePluginOptions{}, nil
}

// ListAndWatch sends the devices now and after every change.
func (p *Plugin) ListAndWatch(_ *api.Empty, stream api.DevicePlugin_ListAndWatchServer) error {
	for {
		changed := p.GPUs.Changed()
		if err := stream.Send(&api.ListAndWatchResponse{Devices: devices(p.GPUs.Snapshot())}); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return nil
		}
	}
}

// Allocate gives a container the UUIDs of its devices, as NVIDIA's plugin does.
func (p *Plugin) Allocate(_ context.Context, request *api.AllocateRequest) (*api.AllocateResponse, error) {
	response := &api.AllocateResponse{}
	for _, container := range request.ContainerRequests {
		response.ContainerResponses = append(response.ContainerResponses, &api.ContainerAllocateResponse{
			Envs: map[string]string{"NVIDIA_VISIBLE_DEVICES": strings.Join(container.DevicesIds, ",")},
		})
	}
	return response, nil
}

func devices(gpus []GPU) []*api.Device {
	out := make([]*api.Device, len(gpus))
	for i, gpu := range gpus {
		out[i] = &api.Device{ID: gpu.UUID, Health: api.Unhealthy}
		if gpu.Healthy() {
			out[i].Health = api.Healthy
		}
	}
	return out
}

// inode returns 0 for a path that is not there.
func inode(path string) uint64 {
	stat, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return stat.Sys().(*syscall.Stat_t).Ino
}
