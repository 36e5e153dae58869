package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/edge-provision/edge-provision/imagebuilder"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/site"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

func (a *app) imageCommand() *cobra.Command {
	c := &cobra.Command{Use: "image", Short: "Build and inspect images"}
	var (
		agent   string
		refresh bool
	)
	build := &cobra.Command{
		Use: "build SITE.hcl", Short: "Build every image of a site, and the installer, into the cache", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			ctx := cmd.Context()
			screen := a.display(false)
			defer screen.Close()
			w, err := a.open(ctx, args[0], screen.Tell)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, w.close()) }()
			w.images.Refresh = refresh
			return w.buildImages(ctx, agent)
		},
	}
	build.Flags().StringVar(&agent, "agent", "", "the edge-agent program; default: beside this program")
	build.Flags().BoolVar(&refresh, "refresh", false, "ask the archive for newer packages instead of building from those of the last build")
	c.AddCommand(build, &cobra.Command{
		Use: "inspect DIGEST|DIRECTORY", Short: "Describe an image of the cache and check every byte of it", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.inspectImage(cmd.Context(), args[0]) },
	})
	return c
}

// buildImages builds what apply would need, and prints the digests.
func (w *world) buildImages(ctx context.Context, agent string) error {
	for _, i := range w.site.Images {
		artifact, err := w.images.Build(ctx, i)
		if err != nil {
			return err
		}
		fmt.Fprintf(w.app.stdout, "%s %s %s\n", i.Address, artifact.Digest, workflows.FormatBytes(artifact.Manifest.RawBytes))
	}
	w.tell(steps.Progress{Address: "installer", Phase: "build", Message: "kernel and initramfs"})
	installer, err := w.installer(ctx, agent)
	if err != nil {
		return err
	}
	fmt.Fprintf(w.app.stdout, "installer %s + %s\n", workflows.FormatBytes(installer.Kernel.Size), workflows.FormatBytes(installer.Initramfs.Size))
	return nil
}

// buildProgress shows the builder's progress under the address of what is
// built.
func buildProgress(tell func(steps.Progress), images []*site.Image) func(imagebuilder.Progress) {
	address := "image"
	if len(images) == 1 {
		address = images[0].Address
	}
	return func(p imagebuilder.Progress) {
		at := address
		if p.Phase == "installer" {
			at = "installer"
		}
		tell(steps.Progress{Address: at, Phase: "build", Message: p.Phase, Bytes: p.DoneBytes, Total: p.TotalBytes})
	}
}

func (a *app) inspectImage(ctx context.Context, name string) error {
	var (
		artifact imagebuilder.Artifact
		err      error
	)
	if strings.HasPrefix(name, "sha256:") {
		cache, cacheErr := a.cache()
		if cacheErr != nil {
			return cacheErr
		}
		artifact, err = (&imagebuilder.Builder{CacheDir: cache}).Open(name)
	} else {
		artifact, err = imagebuilder.Inspect(name)
	}
	if err != nil {
		return err
	}
	m := artifact.Manifest
	fmt.Fprintf(a.stdout, "digest        %s\narchitecture  %s\nfirmware      %s\nsector size   %d B\nraw size      %s\nminimum disk  %s\nstored size   %s\nchunks        %d\n",
		artifact.Digest, m.Architecture, strings.Join(m.Firmware, ", "), m.SectorBytes,
		workflows.FormatBytes(m.RawBytes), workflows.FormatBytes(m.MinDiskBytes), workflows.FormatBytes(artifact.FramesBytes), len(m.Chunks))
	if err := artifact.Verify(ctx); err != nil {
		return err
	}
	fmt.Fprintln(a.stdout, "content       every chunk verified")
	return nil
}
