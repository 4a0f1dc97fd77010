// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tandem/api"
	"tandem/cluster"
	"tandem/host/certs"
	"tandem/host/etcd"
	"tandem/host/nbd"
	"tandem/web"
)

// Socket is the name of the API's socket in the run folder. Who may open it may do
// everything; its folder is the owner's only.
const Socket = "node.sock"

// NodeInfo is a node for people.
type NodeInfo struct {
	etcd.Node
	State     string `json:"state"` // up, down, dead, witness
	CPUs      int    `json:"cpus"`
	Memory    int64  `json:"memory"`
	Left      int64  `json:"memory_left"` // to place
	Primaries int    `json:"primaries"`
	Backups   int    `json:"backups"`
	Self      bool   `json:"self,omitempty"`
	Etcd      string `json:"etcd,omitempty"` // its member: voter or spare
}

// CopyInfo is one copy of a VM.
type CopyInfo struct {
	Node    string `json:"node"`
	State   string `json:"state"`
	Address string `json:"address,omitempty"`
}

// VMInfo is a VM for people.
type VMInfo struct {
	etcd.VM
	Protected bool      `json:"protected"`
	Status    string    `json:"status"` // protected, or not protected: why
	Detail    string    `json:"detail,omitempty"`
	Epoch     uint64    `json:"epoch"`
	Primary   *CopyInfo `json:"primary,omitempty"`
	Backup    *CopyInfo `json:"backup,omitempty"`
	Next      *CopyInfo `json:"next,omitempty"`
	Failures  int       `json:"failures,omitempty"`
}

// Info is the daemon itself.
type Info struct {
	Name    string `json:"name"`
	Cluster string `json:"cluster"`
	Trouble string `json:"trouble,omitempty"`
	Voters  int    `json:"etcd_voters"`
	Heard   int    `json:"etcd_voters_heard"`
}

// CreateRequest makes a VM.
type CreateRequest struct {
	Name  string    `json:"name"`
	FT    bool      `json:"ft"`
	Start bool      `json:"start"`
	Spec  etcd.Spec `json:"spec"`
}

// VMChange changes what is wanted of a VM; nil leaves a thing.
type VMChange struct {
	Power *bool `json:"power,omitempty"`
	FT    *bool `json:"ft,omitempty"`
}

// NodeChange changes what is wanted of a node; nil leaves a thing.
type NodeChange struct {
	Evacuation *string `json:"evacuation,omitempty"` // "", evacuate, force
	Cordoned   *bool   `json:"cordoned,omitempty"`
	Dead       *bool   `json:"dead,omitempty"` // an operator vouches that it has ended
}

func refuse(format string, args ...any) error {
	return api.Failf(http.StatusBadRequest, format, args...)
}

func missing(what, name string) error {
	return api.Failf(http.StatusNotFound, "there is no %s %s", what, name)
}

// routes are all that a node can be asked for. docs/api.md and api/openapi.yaml describe them.
func (n *Node) routes() []api.Route {
	return []api.Route{
		{Pattern: "GET /v1/info", Role: api.View, Do: n.getInfo},
		{Pattern: "POST /v1/cluster/init", Role: api.Admin, Do: n.postInit},
		{Pattern: "POST /v1/cluster/join", Role: api.Admin, Do: n.postJoin},
		{Pattern: "POST /v1/cluster/token", Role: api.Admin, Do: n.postToken},
		{Pattern: "DELETE /v1/cluster/token", Role: api.Admin, Do: n.deleteTokens},
		{Pattern: "POST /v1/cluster/confirm", Role: api.Admin, Do: n.postConfirm},
		{Pattern: "GET /v1/tokens", Role: api.Admin, Do: n.getTokens},
		{Pattern: "POST /v1/tokens", Role: api.Admin, Do: n.postAPIToken},
		{Pattern: "DELETE /v1/tokens/{id}", Role: api.Admin, Do: n.deleteToken},
		{Pattern: "GET /v1/nodes", Role: api.View, Do: n.getNodes},
		{Pattern: "PATCH /v1/nodes/{name}", Role: api.Operate, Do: n.patchNode},
		{Pattern: "DELETE /v1/nodes/{name}", Role: api.Admin, Do: n.deleteNode},
		{Pattern: "GET /v1/vms", Role: api.View, Do: n.getVMs},
		{Pattern: "POST /v1/vms", Role: api.Admin, Do: n.postVM},
		{Pattern: "GET /v1/vms/{name}", Role: api.View, Do: n.getVM},
		{Pattern: "PATCH /v1/vms/{name}", Role: api.Operate, Do: n.patchVM},
		{Pattern: "DELETE /v1/vms/{name}", Role: api.Admin, Do: n.deleteVM},
		{Pattern: "GET /v1/vms/{name}/events", Role: api.View, Do: n.getEvents},
		{Pattern: "GET /v1/vms/{name}/samples", Role: api.View, Do: n.getSamples},
		{Pattern: "GET /v1/vms/{name}/console", Role: api.Operate, Serve: n.getConsole},
		{Pattern: "POST /v1/vms/{name}/move", Role: api.Operate, Do: n.postMove},
		{Pattern: "POST /v1/vms/{name}/resize", Role: api.Operate, Do: n.postResize},
		{Pattern: "POST /v1/vms/{name}/memory", Role: api.Operate, Do: n.postMemory},
		{Pattern: "POST /v1/vms/{name}/attach", Role: api.Operate, Do: n.postAttach},
		{Pattern: "POST /v1/vms/{name}/detach", Role: api.Operate, Do: n.postDetach},
		{Pattern: "POST /v1/vms/{name}/disk-move", Role: api.Operate, Do: n.postDiskMove},
		{Pattern: "GET /v1/vms/{name}/disk-move", Role: api.View, Do: n.getDiskMove},
		{Pattern: "DELETE /v1/vms/{name}/disk-move", Role: api.Operate, Do: n.deleteDiskMove},
		{Pattern: "POST /v1/vms/{name}/reset", Role: api.Operate, Do: n.postCommand("reset")},
		{Pattern: "POST /v1/vms/{name}/test-failover", Role: api.Operate, Do: n.postCommand("test-failover")},
		{Pattern: "POST /v1/vms/{name}/shutdown", Role: api.Operate, Do: n.postCommand("shutdown")},
		{Pattern: "GET /v1/metrics", Role: api.View, Serve: n.metricsHandler().ServeHTTP},
		{Pattern: "GET /v1/stream", Role: api.View, Serve: n.hub.Serve},
	}
}

// serveAPI opens the socket, in place of one that a daemon before us left, and the
// address for others, if one was given.
func (n *Node) serveAPI(ctx context.Context) (end func(), err error) {
	s := api.New(n.routes(), web.Handler(), n.findToken, n.noteChange)
	path := filepath.Join(n.opt.Run, Socket)
	os.Remove(path)
	ln, err := net.Listen("unix", path)
	if err == nil {
		err = os.Chmod(path, 0o600) // others may pass through the folder
	}
	if err != nil {
		return nil, err
	}
	local := &http.Server{Handler: s.Local(), ReadHeaderTimeout: 5 * time.Second}
	remote, err := n.serveRemote(ctx, s.Remote())
	if err != nil {
		ln.Close()
		return nil, err
	}
	n.wg.Go(func() { local.Serve(ln) })
	return func() { local.Close(); remote.Close() }, nil
}

func (n *Node) getInfo(*http.Request) (any, error) { return n.daemonInfo(), nil }

func (n *Node) daemonInfo() Info {
	n.mu.Lock()
	defer n.mu.Unlock()
	var i Info
	if n.set != nil {
		i.Name, i.Cluster = n.set.Name, n.set.Cluster
		i.Voters, i.Heard = n.votes.count()
	}
	if n.trouble != nil {
		i.Trouble = n.trouble.Error()
	}
	return i
}

// joinTime bounds the making of a member, an etcd's start included.
const joinTime = 3 * time.Minute

func (n *Node) postInit(r *http.Request) (any, error) {
	q, err := api.Read[InitRequest](r)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), joinTime)
	defer cancel()
	token, err := n.Init(ctx, q)
	if err != nil {
		return nil, api.Fail(http.StatusBadRequest, err)
	}
	return map[string]string{"token": token}, nil
}

func (n *Node) postJoin(r *http.Request) (any, error) {
	q, err := api.Read[JoinRequest](r)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), joinTime)
	defer cancel()
	if err := n.Join(ctx, q); err != nil {
		return nil, api.Fail(http.StatusBadRequest, err)
	}
	return struct{}{}, nil
}

func (n *Node) postToken(r *http.Request) (any, error) {
	token, err := n.NewToken(r.Context())
	return map[string]string{"token": token}, err
}

func (n *Node) deleteTokens(r *http.Request) (any, error) {
	c, err := n.connected()
	if err != nil {
		return nil, err
	}
	return struct{}{}, c.DropTokens(r.Context())
}

func (n *Node) postConfirm(r *http.Request) (any, error) {
	c, err := n.connected()
	if err != nil {
		return nil, err
	}
	return struct{}{}, c.Confirm(r.Context())
}

// look loads the registry for a request.
func (n *Node) look(ctx context.Context) (*etcd.Client, *etcd.Snapshot, error) {
	c, err := n.connected()
	if err != nil {
		return nil, nil, err
	}
	s, err := c.Load(ctx)
	return c, s, err
}

// lookVM is look for a request about a VM.
func (n *Node) lookVM(r *http.Request) (c *etcd.Client, s *etcd.Snapshot, v etcd.VM, err error) {
	if c, s, err = n.look(r.Context()); err != nil {
		return c, s, v, err
	}
	name := r.PathValue("name")
	v, ok := s.VM(name)
	if !ok {
		err = missing("VM", name)
	}
	return c, s, v, err
}

// askedOf reads what is asked of the VM that a request names.
func askedOf[T any](n *Node, r *http.Request) (q T, c *etcd.Client, s *etcd.Snapshot, v etcd.VM, err error) {
	if q, err = api.Read[T](r); err == nil {
		c, s, v, err = n.lookVM(r)
	}
	return q, c, s, v, err
}

func (n *Node) getNodes(r *http.Request) (any, error) {
	_, s, err := n.look(r.Context())
	if err != nil {
		return nil, err
	}
	d, _, err := n.plan(s, time.Now(), nil)
	if err != nil {
		return nil, err
	}
	return n.nodeInfos(s, d), nil
}

// nodeInfos describes the nodes by one look.
func (n *Node) nodeInfos(s *etcd.Snapshot, d cluster.Decision) []NodeInfo {
	list := []NodeInfo{}
	for _, h := range s.Nodes {
		a, up := s.Alive[h.Name]
		i := NodeInfo{Node: h, State: "down", CPUs: a.CPUs, Memory: a.Memory, Self: h.Name == n.set.Name}
		switch {
		case h.Witness:
			i.State = "witness"
		case up:
			i.State = "up"
		case h.Dead != "":
			i.State = "dead"
		}
		for _, st := range d.Hosts {
			if st.Host == h.Name {
				i.Left, i.Primaries, i.Backups = st.Memory, st.Primaries, st.Backups
			}
		}
		i.Etcd = n.seatOf(h.Name)
		list = append(list, i)
	}
	return list
}

// seatOf says what a host's member of the embedded etcd is.
func (n *Node) seatOf(host string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, m := range n.members {
		switch {
		case m.Name != host:
		case m.Learner:
			return "spare"
		default:
			return "voter"
		}
	}
	return ""
}

func (n *Node) patchNode(r *http.Request) (any, error) {
	q, err := api.Read[NodeChange](r)
	if err != nil {
		return nil, err
	}
	c, s, err := n.look(r.Context())
	if err != nil {
		return nil, err
	}
	name := r.PathValue("name")
	h, ok := s.Node(name)
	if !ok {
		return nil, missing("node", name)
	}
	if q.Evacuation != nil {
		if !slices.Contains([]string{"", evacuate, forceEvacuate}, *q.Evacuation) {
			return nil, refuse("evacuation %q: choose evacuate, force or nothing", *q.Evacuation)
		}
		h.Evacuation = *q.Evacuation
	}
	if q.Cordoned != nil {
		h.Cordoned = *q.Cordoned
	}
	if q.Dead != nil {
		if err := api.Need(r, api.Admin); err != nil {
			return nil, err
		}
		h.Dead = ""
		if _, up := s.Alive[name]; *q.Dead && up {
			return nil, refuse("%s is heard: it is not dead", name)
		}
		if *q.Dead {
			h.Dead = "vouched for at " + time.Now().UTC().Format(time.RFC3339)
		}
	}
	return h, c.SaveNode(r.Context(), s, h)
}

// deleteNode takes a node out of the cluster for good.
func (n *Node) deleteNode(r *http.Request) (any, error) {
	c, s, err := n.look(r.Context())
	if err != nil {
		return nil, err
	}
	name := r.PathValue("name")
	h, ok := s.Node(name)
	if !ok {
		return nil, missing("node", name)
	}
	if _, up := s.Alive[name]; up {
		return nil, refuse("%s is heard: evacuate it and stop its daemon first", name)
	}
	for vm, copies := range s.Copies {
		if copies[name].Alive {
			return nil, refuse("a copy of %s may still run on %s: run tandem cluster dead %s once that host is off for sure", vm, name, name)
		}
	}
	if h.Member != 0 {
		if err := c.RemoveMember(r.Context(), h.Member); err != nil {
			return nil, err
		}
	}
	return struct{}{}, c.RemoveNode(r.Context(), s, name)
}

// info describes a VM by one look: a plan of an older one would say protected of a
// pair that is none any more.
func (n *Node) info(s *etcd.Snapshot, v etcd.VM, d cluster.Decision, o cluster.Observed) VMInfo {
	i := VMInfo{VM: v, Status: cluster.NotRunning.String(), Epoch: s.Claims[v.Name].Epoch}
	for _, st := range d.VMs {
		if st.VM == v.Name {
			i.Protected, i.Status = st.Word == cluster.IsProtected, st.Word.String()
			i.Detail = strings.TrimPrefix(strings.TrimPrefix(st.String(), i.Status), "; ")
			if st.Word == cluster.NoArbiter {
				i.Detail = n.voice()
			}
			if st.Until != 0 {
				i.Detail += " at " + timeOf(st.Until).Format(time.TimeOnly)
			}
			if st.Hold == cluster.BackingOff {
				i.Detail += "; tandem events " + v.Name + " tells why"
			}
		}
	}
	copies := s.Copies[v.Name]
	show := func(c cluster.Copy) *CopyInfo {
		if c.State == cluster.NoCopy {
			return nil
		}
		return &CopyInfo{c.Host, c.State.String(), copies[c.Host].Address}
	}
	for _, in := range o.VMs {
		if in.VM == v.Name {
			i.Primary, i.Backup, i.Next, i.Failures = show(in.Primary), show(in.Backup), show(in.Next), in.Failures
		}
	}
	return i
}

func (n *Node) getVMs(r *http.Request) (any, error) {
	_, s, err := n.look(r.Context())
	if err != nil {
		return nil, err
	}
	d, o, err := n.plan(s, time.Now(), nil)
	if err != nil {
		return nil, err
	}
	return n.vmInfos(s, d, o), nil
}

// vmInfos describes the VMs by one look.
func (n *Node) vmInfos(s *etcd.Snapshot, d cluster.Decision, o cluster.Observed) []VMInfo {
	list := []VMInfo{}
	for _, v := range s.VMs {
		list = append(list, n.info(s, v, d, o))
	}
	return list
}

func (n *Node) getVM(r *http.Request) (any, error) {
	_, s, v, err := n.lookVM(r)
	if err != nil {
		return nil, err
	}
	d, o, err := n.plan(s, time.Now(), nil)
	if err != nil {
		return nil, err
	}
	return n.info(s, v, d, o), nil
}

func (n *Node) postVM(r *http.Request) (any, error) {
	q, err := api.Read[CreateRequest](r)
	if err != nil {
		return nil, err
	}
	if err := check(q); err != nil {
		return nil, api.Fail(http.StatusBadRequest, err)
	}
	if err := measure(r.Context(), &q.Spec); err != nil {
		return nil, api.Fail(http.StatusBadRequest, err)
	}
	c, s, err := n.look(r.Context())
	if err != nil {
		return nil, err
	}
	ca, err := certs.NewCA("vm " + q.Name)
	if err != nil {
		return nil, err
	}
	secrets := etcd.Secrets{CA: ca.CertPEM}
	if secrets.Cert, secrets.Key, err = ca.Issue(certs.Replica); err != nil {
		return nil, err
	}
	v := etcd.VM{Name: q.Name, Revision: 1, Asked: 1, Power: q.Start, FT: q.FT, Made: time.Now().UTC(), Spec: q.Spec}
	if err := c.CreateVM(r.Context(), s, v, secrets); err != nil {
		return nil, err
	}
	n.asked(r, c, v.Name, 0, "created; FT %v, started %v", q.FT, q.Start)
	return v, nil
}

// measure asks for the sizes of disks: once a VM is protected, its disks answer to
// the owner of its epoch only.
func measure(ctx context.Context, s *etcd.Spec) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for _, url := range s.Disks[min(len(s.Sizes), len(s.Disks)):] {
		if url == etcd.EmptyDrive {
			s.Sizes = append(s.Sizes, 0)
			continue
		}
		d, err := nbd.Dial(ctx, url, 0, func() {})
		if err != nil {
			return fmt.Errorf("%w; see that tandem store runs and is reached, or say how large the disks are", err)
		}
		s.Sizes = append(s.Sizes, d.Size())
		d.Close()
	}
	return nil
}

// check validates what an operator gave. What only a host can know, its node finds.
func check(q CreateRequest) error {
	s := q.Spec
	switch {
	case !etcd.ValidName(q.Name):
		return fmt.Errorf("%q is no name of a VM: use at most 63 letters, digits, '-', '_' and '.'", q.Name)
	case s.CPUs < 1 || s.CPUs > cluster.MaxCPUs:
		return fmt.Errorf("%d CPUs: give at least 1", s.CPUs)
	case s.Memory < 1<<20 || s.Memory > cluster.MaxBytes:
		return fmt.Errorf("memory of %d bytes: give at least 1M", s.Memory)
	case s.Image == "" && s.Kernel == "" && s.Firmware == "":
		return errors.New("nothing to boot: give an image, a kernel or firmware")
	case s.Network == "user":
		return errors.New("network user ends with its process: a VM of a cluster needs switch:ADDRESS, tap:NAME or none")
	}
	paths := []string{s.Kernel, s.Initrd, s.Firmware}
	if strings.ContainsRune(s.Image, '/') { // not a name
		paths = append(paths, s.Image)
	}
	for _, path := range paths {
		if path != "" && !filepath.IsAbs(path) {
			return fmt.Errorf("%s: give the whole path, the same on every host", path)
		}
	}
	for _, d := range s.Disks {
		if err := checkDisk(d); err != nil {
			return err
		}
	}
	if s.Timeout != "" {
		if _, err := time.ParseDuration(s.Timeout); err != nil {
			return fmt.Errorf("timeout %s: give a duration like 300ms", s.Timeout)
		}
	}
	if s.Spread != "" && s.Spread != "prefer" && s.Spread != spreadRequire {
		return fmt.Errorf("spread %q: choose prefer or require", s.Spread)
	}
	return nil
}

func (n *Node) patchVM(r *http.Request) (any, error) {
	q, c, s, v, err := askedOf[VMChange](n, r)
	if err != nil {
		return nil, err
	}
	if v.Deleted {
		return nil, refuse("%s is being deleted", v.Name)
	}
	v.Revision++
	if q.Power != nil {
		v.Power = *q.Power
		if v.Power {
			v.Asked = v.Revision
		}
		n.asked(r, c, v.Name, 0, "power %v", v.Power)
	}
	if q.FT != nil {
		v.FT = *q.FT
		n.asked(r, c, v.Name, 0, "FT %v", v.FT)
	}
	return v, c.SaveVM(r.Context(), s, v)
}

func (n *Node) deleteVM(r *http.Request) (any, error) {
	c, s, v, err := n.lookVM(r)
	if err != nil {
		return nil, err
	}
	if _, begun := s.States[v.Name]; !begun {
		return struct{}{}, c.ForgetVM(r.Context(), s, v.Name) // it never ran
	}
	v.Revision++
	v.Deleted, v.Power = true, false
	n.asked(r, c, v.Name, 0, "delete")
	return struct{}{}, c.SaveVM(r.Context(), s, v)
}

func (n *Node) getEvents(r *http.Request) (any, error) {
	c, err := n.connected()
	if err != nil {
		return nil, err
	}
	list, err := c.Events(r.Context(), r.PathValue("name"))
	if list == nil {
		list = []etcd.Event{}
	}
	return list, err
}
