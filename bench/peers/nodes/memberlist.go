// One memberlist node, or a crowd of them in this process, tuned to a 200 ms period. Every membership event is a line
// of JSON on stdout with the time on CLOCK_MONOTONIC. SIGTERM leaves.
package main

import (
	"flag"
	"fmt"
	"io/ioutil"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/hashicorp/memberlist"
)

var (
	name  = flag.String("name", "", "unique in the pool")
	bind  = flag.String("bind", "127.0.0.1", "address")
	port  = flag.Int("port", 7946, "UDP and TCP")
	join  = flag.String("join", "", "seeds, separated by commas")
	noTCP = flag.Bool("no-tcp-pings", false, "probe over UDP alone")
	crowd = flag.Int("crowd", 0, "so many nodes in this process, which join one at once")
	limit = flag.Duration("limit", 45*time.Second, "how long a crowd may take")
)

func monotonic() float64 {
	var now syscall.Timespec
	syscall.Syscall(syscall.SYS_CLOCK_GETTIME, 1, uintptr(unsafe.Pointer(&now)), 0)
	return float64(now.Sec) + float64(now.Nsec)/1e9
}

func say(event, who string) {
	fmt.Printf("{\"monotonic\":%.6f,\"event\":%q,\"who\":%q}\n", monotonic(), event, who)
}

// Teller tells of each event as it happens.
type Teller struct{}

func (Teller) NotifyJoin(n *memberlist.Node)   { say("joined", n.Name) }
func (Teller) NotifyUpdate(n *memberlist.Node) { say("updated", n.Name) }
func (Teller) NotifyLeave(n *memberlist.Node) {
	if n.State == memberlist.StateLeft {
		say("left", n.Name)
	} else {
		say("gone", n.Name)
	}
}

// Counter counts who went.
type Counter struct{ gone *int64 }

func (Counter) NotifyJoin(*memberlist.Node)   {}
func (Counter) NotifyUpdate(*memberlist.Node) {}
func (c Counter) NotifyLeave(*memberlist.Node) { atomic.AddInt64(c.gone, 1) }

// Everything not set here is memberlist's own choice for a LAN.
func tuned(name string, port int, events memberlist.EventDelegate) *memberlist.Config {
	config := memberlist.DefaultLANConfig()
	config.Name = name
	config.BindAddr = *bind
	config.BindPort = port
	config.AdvertisePort = port
	config.ProbeInterval = 200 * time.Millisecond
	config.ProbeTimeout = 100 * time.Millisecond
	config.GossipInterval = 50 * time.Millisecond
	config.SuspicionMult = 3
	config.TCPTimeout = 2 * time.Second
	config.DisableTcpPings = *noTCP
	config.SecretKey = []byte("0123456789abcdef0123456789abcdef")
	config.Events = events
	config.LogOutput = ioutil.Discard
	return config
}

func create(config *memberlist.Config) *memberlist.Memberlist {
	list, err := memberlist.Create(config)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return list
}

func joinAny(list *memberlist.Memberlist, seeds []string) {
	for {
		if n, _ := list.Join(seeds); n > 0 {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func one() {
	list := create(tuned(*name, *port, Teller{}))
	say("up", *name)
	going := make(chan os.Signal, 1)
	signal.Notify(going, syscall.SIGTERM)
	if *join != "" {
		go joinAny(list, strings.Split(*join, ","))
	}
	<-going
	list.Leave(5 * time.Second)
	list.Shutdown()
}

func many() {
	var gone int64
	lists := make([]*memberlist.Memberlist, *crowd)
	for i := range lists {
		lists[i] = create(tuned(fmt.Sprintf("n%d", i), 0, Counter{&gone}))
	}
	seed := []string{lists[0].LocalNode().Address()}
	begun := time.Now()
	for _, list := range lists[1:] {
		go joinAny(list, seed)
	}
	complete := func() bool {
		for _, list := range lists {
			if list.NumMembers() != *crowd {
				return false
			}
		}
		return true
	}
	for !complete() && time.Since(begun) < *limit {
		time.Sleep(2 * time.Millisecond)
	}
	took := time.Since(begun).Seconds()
	time.Sleep(time.Second)
	fmt.Printf("{\"seconds\":%.3f,\"one_view\":%t,\"gone\":%d}\n", took, complete(), atomic.LoadInt64(&gone))
}

func main() {
	flag.Parse()
	if *crowd > 0 {
		many()
	} else {
		one()
	}
}
