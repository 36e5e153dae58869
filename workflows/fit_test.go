package workflows

import (
	"strings"
	"testing"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/workflows/site"
)

func TestAnImageIsNotPlannedForADiskThatItDoesNotFit(t *testing.T) {
	m := &site.Machine{Image: &site.Image{Address: "image.os"}}
	tests := []struct {
		name  string
		image ImageView
		disk  inventory.Disk
		want  string
	}{
		{"the same sector", ImageView{SectorBytes: 512, MinDiskBytes: 2e9}, inventory.Disk{LogicalBlock: 512, Bytes: 8e9}, ""},
		{"512 bytes on a 4Kn disk", ImageView{SectorBytes: 512}, inventory.Disk{LogicalBlock: 4096, Bytes: 8e9}, "made for 512"},
		{"4096 bytes on a 512e disk", ImageView{SectorBytes: 4096}, inventory.Disk{LogicalBlock: 512, Bytes: 8e9}, "made for 4096"},
		{"an image that is not built yet", ImageView{}, inventory.Disk{LogicalBlock: 4096, Bytes: 8e9}, ""},
		{"a disk that does not say", ImageView{SectorBytes: 512}, inventory.Disk{Bytes: 8e9}, ""},
		{"a disk that is too small", ImageView{MinDiskBytes: 8e9 + 1}, inventory.Disk{Bytes: 8e9}, "needs at least 8000000001"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := &builder{seen: Observation{Images: map[string]ImageView{"image.os": tt.image}}}
			got := b.unfit(m, tt.disk)
			if (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) {
				t.Errorf("unfit() = %q; want %q", got, tt.want)
			}
		})
	}
}
