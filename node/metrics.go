// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"tandem/host/control"
	"tandem/host/etcd"
)

// metric is one number of a copy on this host (design §9).
type metric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(control.Status) float64
}

func newMetric(name, help string, kind prometheus.ValueType, value func(control.Status) float64) metric {
	return metric{prometheus.NewDesc(name, help, []string{"vm"}, nil), kind, value}
}

var metrics = []metric{
	newMetric("tandem_execution_lag_seconds", "How far the backup's execution is behind the primary's.", prometheus.GaugeValue,
		func(s control.Status) float64 { return s.LagSeconds }),
	newMetric("tandem_log_sent_bytes_total", "Bytes of the replication log sent to the backup.", prometheus.CounterValue,
		func(s control.Status) float64 { return float64(s.LogSentBytes) }),
	newMetric("tandem_output_delay_seconds", "Sum of the time that released outputs were held.", prometheus.CounterValue,
		func(s control.Status) float64 { return s.OutputDelay }),
	newMetric("tandem_outputs_released_total", "Outputs released.", prometheus.CounterValue,
		func(s control.Status) float64 { return float64(s.Outputs) }),
	newMetric("tandem_failovers_total", "Times that this copy went live.", prometheus.CounterValue,
		func(s control.Status) float64 { return float64(s.Failovers) }),
	newMetric("tandem_cpu_share", "Part of a CPU that flow control leaves to the guest.", prometheus.GaugeValue,
		func(s control.Status) float64 { return s.CPUShare }),
	newMetric("tandem_waits_total", "Times that the guest waited for the backup.", prometheus.CounterValue,
		func(s control.Status) float64 { return float64(s.Waits) }),
	newMetric("tandem_clone_pause_seconds", "How long the guest stood still for the last clone.", prometheus.GaugeValue,
		func(s control.Status) float64 { return s.ClonePause }),
}

var (
	protectedDesc = prometheus.NewDesc("tandem_protected", "1 if the VM is protected; told by the node of its primary.", []string{"vm"}, nil)
	hostDesc      = prometheus.NewDesc("tandem_host_up", "1 if the host is heard.", []string{"host"}, nil)
	mismatchDesc  = prometheus.NewDesc("tandem_state_hash_mismatches_total", "Copies of the VM on this host that were found to differ from the log, since the daemon started.", []string{"vm"}, nil)
	followedDesc  = prometheus.NewDesc("tandem_cluster_followed", "1 if etcd answers and is trusted.", nil, nil)
	votersDesc    = prometheus.NewDesc("tandem_etcd_voters", "Members of etcd that have a vote.", nil, nil)
	heardDesc     = prometheus.NewDesc("tandem_etcd_voters_heard", "Those of them that this host hears.", nil, nil)
)

// collector reads a Node's newest look when it is scraped.
type collector struct{ n *Node }

// Describe implements prometheus.Collector.
func (c collector) Describe(out chan<- *prometheus.Desc) {
	for _, m := range metrics {
		out <- m.desc
	}
	for _, d := range []*prometheus.Desc{protectedDesc, mismatchDesc, hostDesc, followedDesc, votersDesc, heardDesc} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	n := c.n
	n.mu.Lock()
	defer n.mu.Unlock()
	gauge := func(d *prometheus.Desc, is bool, labels ...string) {
		v := 0.0
		if is {
			v = 1
		}
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(followedDesc, n.client != nil && n.snap != nil && n.trouble == nil)
	voters, heard := n.votes.count()
	out <- prometheus.MustNewConstMetric(votersDesc, prometheus.GaugeValue, float64(voters))
	out <- prometheus.MustNewConstMetric(heardDesc, prometheus.GaugeValue, float64(heard))
	for vm := range n.procs {
		out <- prometheus.MustNewConstMetric(mismatchDesc, prometheus.CounterValue, float64(n.mismatches[vm]), vm)
	}
	for _, p := range n.procs {
		if !p.alive || p.status.State == "" {
			continue
		}
		for _, m := range metrics {
			out <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(p.status), p.VM)
		}
		if n.snap != nil && n.snap.Claims[p.VM].Owner == p.Token {
			gauge(protectedDesc, p.status.State == "Protected" && n.votes.enough() && n.votes.outlive(hostsOf(n.snap, p.VM)...), p.VM)
		}
	}
	if n.snap != nil {
		for _, h := range n.snap.Nodes {
			_, up := n.snap.Alive[h.Name]
			gauge(hostDesc, up, h.Name)
		}
	}
}

// hostsOf are the hosts of a VM's copies.
func hostsOf(s *etcd.Snapshot, vm string) []string {
	list := []string{s.Claims[vm].Node}
	if b := s.States[vm].Backup; b != nil {
		list = append(list, b.Host)
	}
	return list
}

// metricsHandler answers with all metrics, as Prometheus reads them.
func (n *Node) metricsHandler() http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collector{n})
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
}

// serveMetrics serves Prometheus, if an address was given.
func (n *Node) serveMetrics(ctx context.Context) (*http.Server, error) {
	if n.opt.Metrics == "" {
		return nil, nil
	}
	ln, err := listen(ctx, n.opt.Metrics)
	if err != nil {
		return nil, fmt.Errorf("--metrics %s: %w; choose an address of this host and a free port", n.opt.Metrics, err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", n.metricsHandler())
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	n.wg.Go(func() { srv.Serve(ln) })
	return srv, nil
}
