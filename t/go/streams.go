// SPDX-License-Identifier: Apache-2.0

// exec, attach and port-forward with the client library of kubectl and kubelet, over SPDY and WebSocket. It runs in
// the daemon's network namespace and in its PID namespace: the processes it starts have arguments that nobody else
// uses, so that it can see in /proc when they are gone.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	clientexec "k8s.io/client-go/util/exec"
	internalapi "k8s.io/cri-api/pkg/apis"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	remote "k8s.io/cri-client/pkg"
	"k8s.io/streaming/pkg/httpstream"
)

const (
	mib       = 1 << 20
	patience  = 100 * time.Second // until a session is given up, which fails the test
	sessions  = 50                // at once
	slow      = 8                 // clients that do not read
	perClient = 2 * mib           // what one of those may cost the daemon
)

var (
	ctx    = context.Background()
	runtm  internalapi.RuntimeService
	daemon int
	forms  = []string{"SPDY", "WebSocket"}
)

// --- helpers

func must1[T any](v T, err error) T {
	if err != nil {
		_, file, line, _ := runtime.Caller(1)
		ok(false, fmt.Sprintf("%s:%d", filepath.Base(file), line), err)
		finish()
	}
	return v
}

func parse(s string) *url.URL { return must1(url.Parse(s)) }

func executor(form, u string) remotecommand.Executor {
	if form == "SPDY" {
		return must1(remotecommand.NewSPDYExecutor(&rest.Config{}, "POST", parse(u)))
	}
	return must1(remotecommand.NewWebSocketExecutor(&rest.Config{}, "GET", u))
}

func stream(c context.Context, form, u string, o remotecommand.StreamOptions) error {
	c, cancel := context.WithTimeout(c, patience)
	defer cancel()
	return executor(form, u).StreamWithContext(c, o)
}

func execURL(ctr string, o remotecommand.StreamOptions, cmd ...string) string {
	r := must1(runtm.Exec(ctx, &v1.ExecRequest{ContainerId: ctr, Cmd: cmd, Tty: o.Tty, Stdin: o.Stdin != nil,
		Stdout: o.Stdout != nil, Stderr: o.Stderr != nil}))
	return r.Url
}

func execute(form, ctr string, o remotecommand.StreamOptions, cmd ...string) error {
	return stream(ctx, form, execURL(ctr, o, cmd...), o)
}

func attach(c context.Context, form, ctr string, o remotecommand.StreamOptions) error {
	r := must1(runtm.Attach(ctx, &v1.AttachRequest{ContainerId: ctr, Tty: o.Tty, Stdin: o.Stdin != nil,
		Stdout: o.Stdout != nil, Stderr: o.Stderr != nil}))
	return stream(c, form, r.Url, o)
}

func code(err error) int {
	var e clientexec.CodeExitError
	if err == nil {
		return 0
	}
	if errors.As(err, &e) {
		return e.Code
	}
	return -1
}

func until(what string, fn func() bool) bool {
	for end := time.Now().Add(patience); !fn(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			return ok(false, "gave up waiting: "+what)
		}
	}
	return true
}

// running counts the processes with this argument.
func running(arg string) int {
	n := 0
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		b, _ := os.ReadFile(f)
		for _, a := range strings.Split(string(b), "\x00") {
			if a == arg {
				n++
				break
			}
		}
	}
	return n
}

func rss() int {
	b := must1(os.ReadFile(fmt.Sprintf("/proc/%d/status", daemon)))
	for _, line := range strings.Split(string(b), "\n") {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmRSS:" {
			return must1(strconv.Atoi(f[1])) * 1024
		}
	}
	return 0
}

func fds() int { return len(must1(os.ReadDir(fmt.Sprintf("/proc/%d/fd", daemon)))) }

// written is what a process has written so far.
func written(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	for _, line := range strings.Split(string(b), "\n") {
		if strings.HasPrefix(line, "wchar:") {
			return line
		}
	}
	return ""
}

// noise is the same for the same seed.
func noise(seed int64, n int) []byte {
	b := make([]byte, n)
	rand.New(rand.NewSource(seed)).Read(b)
	return b
}

type summing struct {
	mu sync.Mutex
	n  int
	h  [32]byte
	w  interface {
		io.Writer
		Sum([]byte) []byte
	}
}

func newSum() *summing { return &summing{w: sha256.New()} }
func (s *summing) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n += len(p)
	return s.w.Write(p)
}
func (s *summing) is(want []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := sha256.Sum256(want)
	return s.n == len(want) && bytes.Equal(s.w.Sum(nil), sum[:])
}

type sizes chan remotecommand.TerminalSize

func (s sizes) Next() *remotecommand.TerminalSize {
	v, more := <-s
	if !more {
		return nil
	}
	return &v
}

// gate holds up its writer until it is opened.
type gate struct {
	open chan struct{}
	n    int
}

func (g *gate) Write(p []byte) (int, error) {
	<-g.open
	g.n += len(p)
	return len(p), nil
}

func container(pod string, pc *v1.PodSandboxConfig, image, name string, cc *v1.ContainerConfig, cmd ...string) string {
	cc.Metadata = &v1.ContainerMetadata{Name: name}
	cc.Image = &v1.ImageSpec{Image: image}
	cc.Command = cmd
	cc.LogPath = name + ".log"
	cc.Linux = &v1.LinuxContainerConfig{SecurityContext: &v1.LinuxContainerSecurityContext{
		NamespaceOptions: &v1.NamespaceOption{Pid: v1.NamespaceMode_CONTAINER}}}
	ctr := must1(runtm.CreateContainer(ctx, pod, cc, pc))
	must1(0, runtm.StartContainer(ctx, ctr))
	return ctr
}

func state(ctr string) v1.ContainerState {
	return must1(runtm.ContainerStatus(ctx, ctr, false)).Status.State
}

func pidOf(ctr string) int {
	var info struct{ Pid int }
	must1(0, json.Unmarshal([]byte(must1(runtm.ContainerStatus(ctx, ctr, true)).Info["info"]), &info))
	return info.Pid
}

// listen makes a socket on the loopback of the pod that the process belongs to. Its thread is not used again.
func listen(pid int) net.Listener {
	made := make(chan net.Listener)
	go func() {
		runtime.LockOSThread()
		fd := must1(os.Open(fmt.Sprintf("/proc/%d/ns/net", pid)))
		must1(0, unix.Setns(int(fd.Fd()), unix.CLONE_NEWNET))
		fd.Close()
		made <- must1(net.Listen("tcp4", "127.0.0.1:0"))
	}()
	return <-made
}

func portOf(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }

// --- exec

func testExec(form, ctr string) {
	var out, errOut bytes.Buffer
	say := func(s string) string { return form + ": " + s }

	err := execute(form, ctr, remotecommand.StreamOptions{Stdout: &out, Stderr: &errOut}, "sh", "-c", "echo o; echo e >&2; exit 42")
	ok(code(err) == 42 && out.String() == "o\n" && errOut.String() == "e\n", say("stdout, stderr and the exit code apart"), err, out.String(), errOut.String())
	for _, want := range []int{0, 1, 255} {
		out.Reset()
		err = execute(form, ctr, remotecommand.StreamOptions{Stdout: &out}, "sh", "-c", fmt.Sprintf("exit %d", want))
		ok(code(err) == want, say(fmt.Sprintf("exit code %d", want)), err)
	}
	err = execute(form, ctr, remotecommand.StreamOptions{Stdout: &out}, "sh", "-c", "kill -9 $$")
	ok(code(err) == 137, say("a signal is 128 + its number"), err)
	err = execute(form, ctr, remotecommand.StreamOptions{Stdout: &out}, "/no/such/program")
	ok(err != nil && code(err) == -1 && strings.Contains(err.Error(), "/no/such/program"), say("a program that is missing is named"), err)

	out.Reset()
	err = execute(form, ctr, remotecommand.StreamOptions{Stdin: strings.NewReader("to the end"), Stdout: &out}, "sh", "-c", "cat; echo .; exit 3")
	ok(code(err) == 3 && out.String() == "to the end.\n", say("stdin is half-closed: cat sees its end, what comes after arrives"), err, out.String())
	out.Reset()
	err = execute(form, ctr, remotecommand.StreamOptions{Stdin: strings.NewReader(""), Stdout: &out}, "cat")
	ok(err == nil && out.Len() == 0, say("an empty stdin"), err)
	err = execute(form, ctr, remotecommand.StreamOptions{Stdin: bytes.NewReader(noise(1, 4*mib)), Stdout: &out}, "true")
	ok(err == nil, say("stdin that is not read"), err)

	data := noise(2, 100*1000*1000)
	sum := newSum()
	err = execute(form, ctr, remotecommand.StreamOptions{Stdin: bytes.NewReader(data), Stdout: sum}, "cat")
	ok(err == nil && sum.is(data), say("100 MB through stdin and stdout"), err, sum.n)

	out.Reset()
	size := make(sizes, 1)
	size <- remotecommand.TerminalSize{Width: 132, Height: 43}
	reader, writer := io.Pipe()
	seen := &watcher{want: "first", found: make(chan struct{})}
	go func() {
		<-seen.found
		size <- remotecommand.TerminalSize{Width: 80, Height: 24}
		fmt.Fprintln(writer, "typed")
	}()
	err = execute(form, ctr, remotecommand.StreamOptions{Stdin: reader, Stdout: seen, Tty: true, TerminalSizeQueue: size}, "sh", "-c",
		`until [ "$(stty size)" = "43 132" ]; do :; done; echo first; until [ "$(stty size)" = "24 80" ]; do :; done; read x; echo got $x; tty; exit 5`)
	close(size)
	writer.Close()
	ok(code(err) == 5 && strings.Contains(seen.text(), "got typed\r\n") && strings.Contains(seen.text(), "/dev/pts/"), say("a terminal, resized twice"), err, seen.text())

	var wg sync.WaitGroup
	var bad sync.Map
	for i := range sessions {
		wg.Go(func() {
			data := noise(int64(i), 10000+i)
			sum := newSum()
			err := execute(form, ctr, remotecommand.StreamOptions{Stdin: bytes.NewReader(data), Stdout: sum}, "sh", "-c", fmt.Sprintf("cat; exit %d", i))
			if code(err) != i || !sum.is(data) {
				bad.Store(i, fmt.Sprint(err, " ", sum.n))
			}
		})
	}
	wg.Wait()
	n := 0
	bad.Range(func(k, v any) bool { n++; fmt.Fprintln(os.Stderr, "# session", k, v); return true })
	ok(n == 0, say(fmt.Sprintf("%d sessions at once", sessions)))
}

// watcher keeps what is written and says when it has seen something.
type watcher struct {
	mu    sync.Mutex
	b     bytes.Buffer
	want  string
	found chan struct{}
	once  sync.Once
}

func (w *watcher) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.b.Write(p)
	if w.found != nil && strings.Contains(w.b.String(), w.want) {
		w.once.Do(func() { close(w.found) })
	}
	return len(p), nil
}

func (w *watcher) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

// Clients that do not read: the process is held up, not the daemon's memory filled; then all arrives.
func testSlow(form, ctr string) {
	const size = 24 * mib
	var wg sync.WaitGroup
	gates := make([]*gate, slow)
	errs := make([]error, slow)
	before := rss()

	for i := range gates {
		gates[i] = &gate{open: make(chan struct{})}
		wg.Go(func() {
			errs[i] = execute(form, ctr, remotecommand.StreamOptions{Stdout: gates[i]}, "head", "-c", strconv.Itoa(size), "/dev/zero")
		})
	}
	// nothing moves any more: what they have written is the same a hundred looks later
	same, last := 0, ""
	until("the processes are held up", func() bool {
		now := ""
		for _, pid := range pidsOf(strconv.Itoa(size)) {
			now += fmt.Sprint(pid, written(pid), " ")
		}
		if now == last && strings.Count(now, "wchar") == slow {
			same++
		} else {
			same = 0
		}
		last = now
		return same > 60
	})
	cost := (rss() - before) / slow
	fmt.Fprintf(os.Stderr, "# %s: a client that does not read costs %d KiB\n", form, cost/1024)
	ok(cost < perClient || os.Getenv("CRICKET_SANITIZED") != "", form+": clients that do not read cost little memory", cost)
	for _, g := range gates {
		close(g.open)
	}
	wg.Wait()
	good := true
	for i, g := range gates {
		good = good && errs[i] == nil && g.n == size
	}
	ok(good, form+": when they read, they get all", errs, gates[0].n)
}

func pidsOf(arg string) (pids []int) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		b, _ := os.ReadFile(f)
		for _, a := range strings.Split(string(b), "\x00") {
			if pid, err := strconv.Atoi(strings.Split(f, "/")[2]); a == arg && err == nil {
				pids = append(pids, pid)
				break
			}
		}
	}
	return
}

func testVanish(form, ctr string) {
	for _, tty := range []bool{false, true} {
		arg := fmt.Sprintf("77%d", rand.Intn(1e9)+1e9)
		c, cancel := context.WithCancel(ctx)
		ended := make(chan error)
		o := remotecommand.StreamOptions{Stdin: hang{c}, Stdout: io.Discard, Tty: tty}
		u := execURL(ctr, o, "sh", "-c", "trap '' HUP TERM; sleep "+arg+" & exec sleep "+arg)
		go func() { ended <- stream(c, form, u, o) }()
		until("the process of a client that will vanish", func() bool { return running(arg) == 2 })
		cancel()
		<-ended
		ok(until("it is killed", func() bool { return running(arg) == 0 }), fmt.Sprintf("%s: a client vanishes (tty %v): its processes end", form, tty))
	}
}

// hang is a stdin on which nobody types.
type hang struct{ c context.Context }

func (h hang) Read([]byte) (int, error) { <-h.c.Done(); return 0, io.EOF }

// --- tokens

func testTokens(ctr string) {
	o := remotecommand.StreamOptions{Stdout: io.Discard}
	get := func(method, u string) int {
		r, err := http.DefaultTransport.RoundTrip(must1(http.NewRequest(method, u, nil)))
		if err != nil {
			return -1
		}
		r.Body.Close()
		return r.StatusCode
	}
	for _, form := range forms {
		u := execURL(ctr, o, "true")
		ok(stream(ctx, form, u, o) == nil, form+": a token is good once")
		err := stream(ctx, form, u, o)
		ok(err != nil && get("GET", u) == 404, form+": not twice", err)
	}
	u := execURL(ctr, o, "true")
	ok(get("GET", strings.Replace(u, "/exec/", "/attach/", 1)) == 404 && get("GET", strings.Replace(u, "/exec/", "/portforward/", 1)) == 404, "a token of another kind: 404")
	ok(get("PUT", u) == 405 && get("DELETE", u) == 405, "wrong methods: 405")
	ok(get("GET", u[:len(u)-1]) == 404 && get("GET", u+"x") == 404 && get("GET", u+"/") == 404, "a token that is nearly right: 404")
	base := u[:strings.LastIndex(u, "/")+1]
	all := true
	for i := range 200 {
		all = all && get("GET", base+fmt.Sprintf("%x", noise(int64(i), 16))) == 404
	}
	ok(all, "guessed tokens: 404")
	ok(stream(ctx, "SPDY", u, o) == nil, "none of that used it up")
	u = execURL(ctr, o, "true")
	ok(get("GET", u) == 400 && get("GET", u) == 404, "a request without an upgrade: 400, and the token is used")
}

// --- attach

func testAttach(form, pod, image string, pc *v1.PodSandboxConfig) {
	say := func(s string) string { return form + ": " + s }

	// five clients that come one after the other see the same from then on, to the end
	ctr := container(pod, pc, image, form+"-count", &v1.ContainerConfig{}, "sh", "-c",
		"trap 'echo end; exit 7' TERM; i=0; while :; do echo $i; echo e $i >&2; i=$((i+1)); usleep 500; done")
	var wg sync.WaitGroup
	outs, errOuts := make([]*watcher, 5), make([]bytes.Buffer, 5)
	errs := make([]error, 5)
	for i := range outs {
		outs[i] = &watcher{want: "\n", found: make(chan struct{})}
		wg.Go(func() {
			errs[i] = attach(ctx, form, ctr, remotecommand.StreamOptions{Stdout: outs[i], Stderr: &errOuts[i]})
		})
		<-outs[i].found
	}
	must1(0, runtm.StopContainer(ctx, ctr, 60))
	wg.Wait()
	good := true
	for i, o := range outs {
		lines := strings.Split(strings.TrimRight(o.text(), "\n"), "\n")
		first, _ := strconv.Atoi(lines[0])
		for k, line := range lines[:len(lines)-1] {
			if line != strconv.Itoa(first+k) {
				good = ok(false, say(fmt.Sprintf("client %d: line %d is %q", i, k, line)))
				break
			}
		}
		last := lines[len(lines)-1]
		// between two lines of stdout there is one of stderr; the container may end before the last client has two
		quiet := len(lines) > 2 && strings.Count(errOuts[i].String(), "e ") == 0
		if last != "end" || errs[i] != nil || quiet || strings.Contains(errOuts[i].String(), "\n1") {
			good = false
			fmt.Fprintln(os.Stderr, "# client", i, errs[i], last, len(lines))
		}
	}
	ok(good, say("attach by five clients that come late: each gets all from then on, to the end"))

	// stdin_once: its end is the container's; input and output whole
	data := noise(3, 8*mib)
	ctr = container(pod, pc, image, form+"-once", &v1.ContainerConfig{Stdin: true, StdinOnce: true}, "sh", "-c", "echo ready; sha256sum; echo err >&2; exit 3")
	out, errOut := &watcher{}, &watcher{}
	err := attach(ctx, form, ctr, remotecommand.StreamOptions{Stdin: bytes.NewReader(data), Stdout: out, Stderr: errOut})
	ok(err == nil && strings.Contains(out.text(), fmt.Sprintf("%x", sha256.Sum256(data))) && errOut.text() == "err\n", say("stdin_once: 8 MiB go in, the end too, what comes after arrives"), err, out.text(), errOut.text())
	until("it has ended", func() bool { return state(ctr) == v1.ContainerState_CONTAINER_EXITED })

	ctr = container(pod, pc, image, form+"-whole", &v1.ContainerConfig{Stdin: true, StdinOnce: true}, "sh", "-c", "cat; echo -n tail")
	sum := newSum()
	err = attach(ctx, form, ctr, remotecommand.StreamOptions{Stdin: bytes.NewReader(data), Stdout: sum})
	ok(err == nil && sum.is(append(data[:len(data):len(data)], "tail"...)), say("8 MiB there and back by attach arrive whole"), err, sum.n)

	ctr = container(pod, pc, image, form+"-burst", &v1.ContainerConfig{Stdin: true, StdinOnce: true}, "sh", "-c", "read x; head -c 33554432 /dev/zero; echo -n last")
	sum = newSum()
	err = attach(ctx, form, ctr, remotecommand.StreamOptions{Stdin: strings.NewReader("go\n"), Stdout: sum})
	ok(err == nil && sum.is(append(make([]byte, 32*mib), "last"...)), say("32 MiB at once, then the end, by attach arrive whole"), err, sum.n)

	// without stdin_once it stays open for the next client; a tty
	ctr = container(pod, pc, image, form+"-open", &v1.ContainerConfig{Stdin: true}, "sh", "-c", "read a; echo have $a; read b; echo $a $b; read c")
	c, cancel := context.WithCancel(ctx)
	left := make(chan error)
	reader, writer := io.Pipe()
	out = &watcher{want: "have one", found: make(chan struct{})}
	first := out
	go func() { left <- attach(c, form, ctr, remotecommand.StreamOptions{Stdin: reader, Stdout: first}) }()
	fmt.Fprintln(writer, "one")
	<-out.found
	cancel()
	writer.Close()
	<-left
	out = &watcher{want: "one two", found: make(chan struct{})}
	reader, writer = io.Pipe()
	go func() { left <- attach(ctx, form, ctr, remotecommand.StreamOptions{Stdin: reader, Stdout: out}) }()
	fmt.Fprintln(writer, "two")
	<-out.found
	ok(out.text() == "one two\n" && state(ctr) == v1.ContainerState_CONTAINER_RUNNING, say("stdin stays open for the next client"), out.text())
	fmt.Fprintln(writer, "three")
	ok(<-left == nil, say("the container's end is the session's"))
	writer.Close()

	ctr = container(pod, pc, image, form+"-tty", &v1.ContainerConfig{Stdin: true, Tty: true}, "sh", "-c",
		`until [ "$(stty size)" = "43 132" ]; do :; done; echo first; read x; echo got $x`)
	size := make(sizes, 1)
	size <- remotecommand.TerminalSize{Width: 132, Height: 43}
	out = &watcher{}
	reader, writer = io.Pipe()
	go fmt.Fprintln(writer, "typed")
	err = attach(ctx, form, ctr, remotecommand.StreamOptions{Stdin: reader, Stdout: out, Tty: true, TerminalSizeQueue: size})
	close(size)
	writer.Close()
	ok(err == nil && strings.Contains(out.text(), "got typed\r\n"), say("attach to a terminal, with its size"), err, out.text())
}

// --- port-forward

func dialer(form, u string) httpstream.Dialer {
	if form == "WebSocket" {
		return must1(portforward.NewSPDYOverWebsocketDialerForStreaming(parse(u), &rest.Config{}))
	}
	transport, upgrader, err := spdy.RoundTripperFor(&rest.Config{})
	must1(0, err)
	return spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, "POST", parse(u))
}

func forwardURL(pod string) string {
	return must1(runtm.PortForward(ctx, &v1.PortForwardRequest{PodSandboxId: pod})).Url
}

// pair opens one connection by hand, as the library does.
func pair(conn httpstream.Connection, port, id int) (data, errs httpstream.Stream) {
	h := http.Header{}
	h.Set("streamType", "error")
	h.Set("port", strconv.Itoa(port))
	h.Set("requestID", strconv.Itoa(id))
	errs = must1(conn.CreateStream(h))
	errs.Close()
	h.Set("streamType", "data")
	return must1(conn.CreateStream(h)), errs
}

func testForward(form, pod string, pid int) {
	say := func(s string) string { return form + ": " + s }

	// an echo in the pod: all that it gets, and at its end the sum of it
	l := listen(pid)
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				sum := sha256.New()
				io.Copy(c, io.TeeReader(c, sum))
				fmt.Fprintf(c, "%x", sum.Sum(nil))
				c.Close()
			}()
		}
	}()
	stop, ready := make(chan struct{}), make(chan struct{})
	var text watcher
	pf := must1(portforward.NewOnAddressesForStreaming(dialer(form, forwardURL(pod)), []string{"127.0.0.1"}, []string{fmt.Sprintf("0:%d", portOf(l))}, stop, ready, io.Discard, &text))
	ended := make(chan error, 1)
	go func() { ended <- pf.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-ended:
		ok(false, say("port-forward begins"), err)
		return
	}
	local := fmt.Sprintf("127.0.0.1:%d", must1(pf.GetPorts())[0].Local)
	var wg sync.WaitGroup
	var mu sync.Mutex
	good := 0
	for i := range 20 {
		wg.Go(func() {
			data := noise(int64(i), mib+i)
			c := must1(net.Dial("tcp", local)).(*net.TCPConn)
			defer c.Close()
			c.SetDeadline(time.Now().Add(patience))
			go func() { c.Write(data); c.CloseWrite() }()
			got, err := io.ReadAll(c)
			want := append(data, fmt.Sprintf("%x", sha256.Sum256(data))...)
			mu.Lock()
			defer mu.Unlock()
			if err == nil && bytes.Equal(got, want) {
				good++
			} else {
				fmt.Fprintln(os.Stderr, "# connection", i, err, len(got))
			}
		})
	}
	wg.Wait()
	ok(good == 20, say("20 forwarded connections at once, 1 MiB each way, the client's end goes first"), good, text.text())
	close(stop)
	ok(<-ended == nil, say("port-forward ends"))

	// by hand: the pod's end goes first
	conn, _, err := dialer(form, forwardURL(pod)).Dial("portforward.k8s.io")
	must1(0, err)
	half := listen(pid)
	defer half.Close()
	got := make(chan string)
	go func() {
		c := must1(half.Accept()).(*net.TCPConn)
		fmt.Fprint(c, "mine is said")
		c.CloseWrite()
		all, _ := io.ReadAll(c)
		c.Close()
		got <- fmt.Sprintf("%x", sha256.Sum256(all))
	}()
	data, errs := pair(conn, portOf(half), 0)
	b, err := io.ReadAll(data)
	ok(err == nil && string(b) == "mine is said", say("the pod closes its side"), err, string(b))
	sent := noise(9, 3*mib)
	_, err = io.Copy(data, bytes.NewReader(sent))
	data.Close()
	ok(err == nil && <-got == fmt.Sprintf("%x", sha256.Sum256(sent)), say("3 MiB go to it after that"), err)
	b, err = io.ReadAll(errs)
	ok(err == nil && len(b) == 0, say("and no error is told"), err, string(b))
	conn.RemoveStreams(data, errs)

	// a closed port, told on its own error stream; the others go on
	closed := listen(pid)
	port := portOf(closed)
	closed.Close()
	other, otherErrs := pair(conn, portOf(l), 1)
	data, errs = pair(conn, port, 2)
	b, _ = io.ReadAll(errs)
	ok(strings.Contains(string(b), strconv.Itoa(port)) && strings.Contains(string(b), "refused"), say("a closed port: its number and why"), string(b))
	fmt.Println("# " + string(b))
	b, _ = io.ReadAll(data)
	ok(len(b) == 0, say("without data"), string(b))
	fmt.Fprint(other, "still here")
	buf := make([]byte, 10)
	_, err = io.ReadFull(other, buf)
	ok(err == nil && string(buf) == "still here", say("the connection beside it goes on"), err)
	_ = otherErrs
	conn.Close()
}

// --- the daemon dies

func testKill(ctr, pod string, pid int) {
	arg := fmt.Sprintf("78%d", rand.Intn(1e9)+1e9)
	ended := make(chan string, 100)
	n := 0
	for _, form := range forms {
		for _, tty := range []bool{false, true} {
			o := remotecommand.StreamOptions{Stdin: hang{ctx}, Stdout: io.Discard, Tty: tty}
			u := execURL(ctr, o, "sh", "-c", "trap '' HUP TERM; sleep "+arg+" & exec sleep "+arg)
			go func() { ended <- fmt.Sprintf("exec %v", stream(ctx, form, u, o)) }()
			n++
		}
		seen := &watcher{want: "\n", found: make(chan struct{})}
		go func() {
			ended <- fmt.Sprintf("attach %v", attach(ctx, form, ctr, remotecommand.StreamOptions{Stdout: seen}))
		}()
		n++
		<-seen.found
	}
	l := listen(pid)
	go l.Accept()
	conn, _, err := dialer("SPDY", forwardURL(pod)).Dial("portforward.k8s.io")
	must1(0, err)
	pair(conn, portOf(l), 0)
	until("the processes run", func() bool { return running(arg) == 2*n-4 })
	syscall.Kill(daemon, syscall.SIGKILL)
	for range n {
		select {
		case <-ended:
		case <-time.After(patience):
			ok(false, "a session does not end though the daemon is dead")
			return
		}
	}
	ok(true, fmt.Sprintf("kill -9 of the daemon: %d sessions of exec and attach end", n))
	<-conn.CloseChan()
	ok(true, "that of a port-forward too")
	ok(until("no process of theirs is left", func() bool { return running(arg) == 0 }), "no process of theirs is left")
	ok(syscall.Kill(pid, 0) == nil, "the container goes on")
}

func streams(socket, image, logs string, pid int) {
	daemon = pid
	runtm = must1(remote.NewRemoteRuntimeService(ctx, socket, 2*time.Minute, nil, false))
	pc := &v1.PodSandboxConfig{Metadata: &v1.PodSandboxMetadata{Name: "streams", Uid: "u", Namespace: "n"}, LogDirectory: logs, Hostname: "streams"}
	pod := must1(runtm.RunPodSandbox(ctx, pc, ""))
	ctr := container(pod, pc, image, "main", &v1.ContainerConfig{}, "sh", "-c", "while :; do echo line; usleep 100000; done")
	init := pidOf(ctr)
	for _, form := range forms {
		start := time.Now()
		lap := func(what string) {
			fmt.Fprintf(os.Stderr, "# %s %s: %v\n", form, what, time.Since(start).Round(time.Millisecond))
			start = time.Now()
		}
		testExec(form, ctr)
		lap("exec")
		testSlow(form, ctr)
		lap("slow")
		testVanish(form, ctr)
		lap("vanish")
		testAttach(form, pod, image, pc)
		lap("attach")
		testForward(form, pod, init)
		lap("forward")
	}
	testTokens(ctr)
	fmt.Fprintf(os.Stderr, "# descriptors %d, RSS %d KiB\n", fds(), rss()/1024)
	testKill(ctr, pod, init)
}
