// SPDX-License-Identifier: Apache-2.0

// The kubelet's own client library against cricketd: what it insists on (deadlines, checks of replies, error texts) is
// met or shown. Prints TAP. Started by t/45-go.t: client SOCKET IMAGE LOG-DIRECTORY UNREACHABLE-IMAGE
// DAEMON-PID, in the daemon's network namespace. In the end it kills the daemon.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	internalapi "k8s.io/cri-api/pkg/apis"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	remote "k8s.io/cri-client/pkg"
)

var n, failed int

func ok(good bool, name string, why ...any) bool {
	n++
	word := "ok"
	if !good {
		word = "not ok"
		failed++
	}
	fmt.Printf("%s %d - %s\n", word, n, name)
	if !good {
		fmt.Fprintln(os.Stderr, append([]any{"#"}, why...)...)
	}
	return good
}

// done ends the test where the rest makes no sense.
func must(err error, name string) {
	if !ok(err == nil, name, err) {
		finish()
	}
}

func finish() {
	fmt.Printf("1..%d\n", n)
	if failed > 0 {
		os.Exit(1)
	}
	os.Exit(0)
}

func run(streaming bool, socket, image, logs, unreachable string) {
	ctx := context.Background()
	mode := map[bool]string{false: "lists: ", true: "streamed lists: "}[streaming]
	r, err := remote.NewRemoteRuntimeService(ctx, socket, 2*time.Minute, nil, streaming)
	must(err, mode+"the runtime service is accepted")
	i, err := remote.NewRemoteImageService(ctx, socket, 2*time.Minute, nil, streaming)
	must(err, mode+"the image service is accepted")
	defer r.Close(ctx)
	defer i.Close(ctx)

	v, err := r.Version(ctx, "0.1.0")
	must(err, mode+"Version")
	ok(v.RuntimeName == "cricket", mode+"runtime_name", v)
	s, err := r.Status(ctx, true)
	must(err, mode+"Status: the client accepts its conditions")
	ok(len(s.RuntimeHandlers) >= 1 && len(s.Info) > 0, mode+"Status: handlers, info", s)
	c, err := r.RuntimeConfig(ctx)
	must(err, mode+"RuntimeConfig")
	ok(c.Linux != nil && c.Linux.CgroupDriver == v1.CgroupDriver_CGROUPFS, mode+"cgroup driver", c)
	must(r.UpdateRuntimeConfig(ctx, &v1.RuntimeConfig{NetworkConfig: &v1.NetworkConfig{PodCidr: "10.1.0.0/24"}}), mode+"UpdateRuntimeConfig")

	images(ctx, mode, i, image, unreachable)
	pods(ctx, mode, r, i, image, logs)
}

func images(ctx context.Context, mode string, i internalapi.ImageManagerService, image, unreachable string) {
	ref, err := i.PullImage(ctx, &v1.ImageSpec{Image: image}, nil, nil)
	must(err, mode+"PullImage")
	st, err := i.ImageStatus(ctx, &v1.ImageSpec{Image: image}, false)
	must(err, mode+"ImageStatus: the client accepts it")
	ok(st.Image != nil && st.Image.Id == ref && st.Image.Size > 0, mode+"PullImage returns the image's id", ref, st)
	st, err = i.ImageStatus(ctx, &v1.ImageSpec{Image: "no/such:image"}, false)
	ok(err == nil && st.Image == nil, mode+"ImageStatus of an absent one", err, st)
	list, err := i.ListImages(ctx, nil)
	ok(err == nil && len(list) >= 1, mode+"ListImages", err, list)
	fs, err := i.ImageFsInfo(ctx)
	ok(err == nil && len(fs.ImageFilesystems) == 1 && fs.ImageFilesystems[0].UsedBytes != nil, mode+"ImageFsInfo", err, fs)
	_, err = i.PullImage(ctx, &v1.ImageSpec{Image: unreachable}, nil, nil)
	ok(err != nil && strings.HasPrefix(err.Error(), "RegistryUnavailable"), mode+"an unreachable registry: the reason kubelet looks for", err)
}

func pods(ctx context.Context, mode string, r internalapi.RuntimeService, i internalapi.ImageManagerService, image, logs string) {
	pc := &v1.PodSandboxConfig{
		Metadata:     &v1.PodSandboxMetadata{Name: "go", Namespace: "default", Uid: mode},
		Hostname:     "go",
		LogDirectory: logs,
		Labels:       map[string]string{"io.kubernetes.pod.name": "go"},
		Linux:        &v1.LinuxPodSandboxConfig{SecurityContext: &v1.LinuxSandboxSecurityContext{NamespaceOptions: &v1.NamespaceOption{Pid: v1.NamespaceMode_CONTAINER}}},
	}
	pod, err := r.RunPodSandbox(ctx, pc, "")
	must(err, mode+"RunPodSandbox")
	defer r.RemovePodSandbox(ctx, pod)
	ps, err := r.PodSandboxStatus(ctx, pod, true)
	must(err, mode+"PodSandboxStatus")
	ok(ps.Status.State == v1.PodSandboxState_SANDBOX_READY && ps.Status.Network.Ip != "", mode+"READY, with an address", ps)
	pl, err := r.ListPodSandbox(ctx, &v1.PodSandboxFilter{Id: pod})
	ok(err == nil && len(pl) == 1, mode+"ListPodSandbox", err, pl)

	st, _ := i.ImageStatus(ctx, &v1.ImageSpec{Image: image}, false)
	cc := &v1.ContainerConfig{
		Metadata: &v1.ContainerMetadata{Name: "main"},
		Image:    &v1.ImageSpec{Image: st.Image.Id, UserSpecifiedImage: image},
		Command:  []string{"sh", "-c", "echo hello; trap 'exit 3' TERM; while :; do sleep 0.1; done"},
		LogPath:  "main.log",
		Linux: &v1.LinuxContainerConfig{
			Resources:       &v1.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuShares: 100},
			SecurityContext: &v1.LinuxContainerSecurityContext{NamespaceOptions: &v1.NamespaceOption{Pid: v1.NamespaceMode_CONTAINER}, Seccomp: &v1.SecurityProfile{}, MaskedPaths: []string{"/proc/kcore"}, ReadonlyPaths: []string{"/proc/sys"}},
		},
	}
	ctr, err := r.CreateContainer(ctx, pod, cc, pc)
	must(err, mode+"CreateContainer by image id")
	must(r.StartContainer(ctx, ctr), mode+"StartContainer")
	cs, err := r.ContainerStatus(ctx, ctr, true)
	must(err, mode+"ContainerStatus: the client accepts it")
	ok(cs.Status.State == v1.ContainerState_CONTAINER_RUNNING && cs.Status.ImageId == st.Image.Id, mode+"RUNNING, image_id", cs)
	cl, err := r.ListContainers(ctx, &v1.ContainerFilter{PodSandboxId: pod})
	ok(err == nil && len(cl) == 1 && cl[0].Id == ctr, mode+"ListContainers", err, cl)

	out, errOut, err := r.ExecSync(ctx, ctr, []string{"echo", "hi"}, 10*time.Second)
	ok(err == nil && string(out) == "hi\n" && len(errOut) == 0, mode+"ExecSync", err, string(out), string(errOut))
	_, _, err = r.ExecSync(ctx, ctr, []string{"sh", "-c", "exit 7"}, 10*time.Second)
	var exit interface{ ExitStatus() int }
	ok(errors.As(err, &exit) && exit.ExitStatus() == 7, mode+"ExecSync: the code is an exit error", err)
	_, _, err = r.ExecSync(ctx, ctr, []string{"sleep", "1000"}, time.Second)
	ok(err != nil && (status.Code(err) == codes.DeadlineExceeded || strings.Contains(err.Error(), "timed out")), mode+"ExecSync: a timeout is one", err)
	must(r.UpdateContainerResources(ctx, ctr, &v1.ContainerResources{Linux: &v1.LinuxContainerResources{MemoryLimitInBytes: 128 << 20}}), mode+"UpdateContainerResources")

	sl, err := r.ListContainerStats(ctx, &v1.ContainerStatsFilter{Id: ctr})
	ok(err == nil && len(sl) == 1 && sl[0].Cpu != nil && sl[0].Memory != nil, mode+"ListContainerStats", err, sl)
	must(r.ReopenContainerLog(ctx, ctr), mode+"ReopenContainerLog")
	er, err := r.Exec(ctx, &v1.ExecRequest{ContainerId: ctr, Cmd: []string{"sh"}, Stdout: true})
	ok(err == nil && strings.HasPrefix(er.GetUrl(), "http://"), mode+"Exec gives a URL", err, er)

	must(r.StopContainer(ctx, ctr, 60), mode+"StopContainer")
	cs, err = r.ContainerStatus(ctx, ctr, false)
	ok(err == nil && cs.Status.State == v1.ContainerState_CONTAINER_EXITED && cs.Status.ExitCode == 3, mode+"EXITED with its code", err, cs)
	b, err := os.ReadFile(filepath.Join(logs, "main.log"))
	ok(err == nil && strings.Contains(string(b), " stdout F hello\n"), mode+"its log", err, string(b))
	must(r.RemoveContainer(ctx, ctr), mode+"RemoveContainer")
	must(r.StopPodSandbox(ctx, pod), mode+"StopPodSandbox")
	must(r.RemovePodSandbox(ctx, pod), mode+"RemovePodSandbox")
	_, err = r.PodSandboxStatus(ctx, pod, false)
	ok(status.Code(err) == codes.NotFound, mode+"then it is not found", err)
	_, err = r.ContainerStatus(ctx, ctr, false)
	ok(status.Code(err) == codes.NotFound, mode+"nor its container", err)
}

func main() {
	for _, streaming := range []bool{false, true} {
		run(streaming, os.Args[1], os.Args[2], fmt.Sprintf("%s-%v", os.Args[3], streaming), os.Args[4])
	}
	pid, err := strconv.Atoi(os.Args[5])
	must(err, "the daemon's PID")
	streams(os.Args[1], os.Args[2], os.Args[3]+"-streams", pid)
	finish()
}
