package k3s

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// crictl is the little of crictl that tests and people's first look need.
func crictl(ctx context.Context, args []string, out io.Writer) error {
	verb := strings.Join(args, " ")
	conn, err := grpc.NewClient("unix://"+containerdSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	switch verb {
	case "images", "img":
		r, err := cri.NewImageServiceClient(conn).ListImages(ctx, &cri.ListImagesRequest{})
		if err != nil {
			return err
		}
		fmt.Fprint(w, "IMAGE\tIMAGE ID\tSIZE\tPINNED\n")
		for _, i := range r.Images {
			fmt.Fprintf(w, "%s\t%.20s\t%d\t%v\n", strings.Join(i.RepoTags, ","), i.Id, i.Size, i.Pinned)
		}
	case "pods":
		r, err := cri.NewRuntimeServiceClient(conn).ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
		if err != nil {
			return err
		}
		fmt.Fprint(w, "POD ID\tSTATE\tNAME\tNAMESPACE\n")
		for _, p := range r.Items {
			fmt.Fprintf(w, "%.13s\t%s\t%s\t%s\n", p.Id, p.State, p.Metadata.Name, p.Metadata.Namespace)
		}
	case "ps", "ps -a":
		r, err := cri.NewRuntimeServiceClient(conn).ListContainers(ctx, &cri.ListContainersRequest{})
		if err != nil {
			return err
		}
		fmt.Fprint(w, "CONTAINER\tIMAGE\tSTATE\tNAME\n")
		for _, c := range r.Containers {
			if verb == "ps -a" || c.State == cri.ContainerState_CONTAINER_RUNNING {
				fmt.Fprintf(w, "%.13s\t%s\t%s\t%s\n", c.Id, c.Image.Image, c.State, c.Metadata.Name)
			}
		}
	default:
		return fmt.Errorf("crictl %s: the stand-in has images, pods, ps and ps -a", verb)
	}
	return w.Flush()
}
