// podsd tells Prometheus about pods by HTTP service discovery, with the label names of its Kubernetes discovery.
// Debian builds Prometheus without the latter; a rule written for the one works with the other.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"regexp"
	"strings"
	"time"
)

const prefix = "__meta_kubernetes_"

var unsafe = regexp.MustCompile(`[^a-zA-Z0-9_]`)

type pod struct {
	Metadata struct {
		Name, Namespace     string
		Labels, Annotations map[string]string
	}
	Spec   struct{ NodeName string }
	Status struct{ PodIP, Phase string }
}

type target struct {
	Targets []string          `json:"targets"`
	Labels  map[string]string `json:"labels"`
}

func main() {
	server := flag.String("server", "", "URL of the API server")
	ca := flag.String("ca", "", "its certificate authority, a PEM file")
	token := flag.String("token", "", "file that holds a bearer token")
	listen := flag.String("listen", "127.0.0.1:9101", "address to serve on")
	flag.Parse()
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{TLSClientConfig: trust(*ca)}}
	http.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) {
		pods, err := list(client, *server, *token)
		if err != nil {
			// Prometheus keeps the targets it had.
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(targets(pods))
	})
	log.Fatal(http.ListenAndServe(*listen, nil))
}

func trust(file string) *tls.Config {
	pem, err := os.ReadFile(file)
	if err != nil {
		log.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return &tls.Config{RootCAs: pool}
}

func list(client *http.Client, server, tokenFile string) ([]pod, error) {
	token, err := os.ReadFile(tokenFile)
	if err != nil {
		return nil, err
	}
	// resourceVersion=0 is answered from the API server's cache.
	request, err := http.NewRequest(http.MethodGet, server+"/api/v1/pods?resourceVersion=0", nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the API server answered %s", response.Status)
	}
	var body struct{ Items []pod }
	err = json.NewDecoder(response.Body).Decode(&body)
	return body.Items, err
}

// targets returns the pods that have an address and ask to be scraped.
func targets(pods []pod) []target {
	out := []target{}
	for _, p := range pods {
		if p.Status.PodIP == "" || p.Metadata.Annotations["prometheus.io/scrape"] != "true" {
			continue
		}
		labels := map[string]string{
			prefix + "namespace":     p.Metadata.Namespace,
			prefix + "pod_name":      p.Metadata.Name,
			prefix + "pod_ip":        p.Status.PodIP,
			prefix + "pod_phase":     p.Status.Phase,
			prefix + "pod_node_name": p.Spec.NodeName,
		}
		add(labels, "pod_label_", p.Metadata.Labels)
		add(labels, "pod_annotation_", p.Metadata.Annotations)
		out = append(out, target{[]string{p.Status.PodIP}, labels})
	}
	return out
}

func add(labels map[string]string, kind string, from map[string]string) {
	for key, value := range from {
		labels[prefix+kind+unsafe.ReplaceAllString(key, "_")] = value
	}
}
