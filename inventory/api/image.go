package api

import (
	"net/http"

	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/store"
)

func (s *Server) imageRoutes() []route {
	return []route{
		{
			method: http.MethodGet, path: "/v1/images", id: "listImages", tag: "images", need: resource.RoleReader,
			summary: "List the images in the controller's store, the newest first",
			params:  []param{{name: "name", summary: "only images of this name in site.hcl", example: "edge-os"}, paramLimit, paramCursor},
			reply:   resource.Page[resource.Image]{}, problems: []string{"invalid-cursor"}, serve: s.listImages,
		},
		{
			method: http.MethodGet, path: "/v1/images/{digest}", id: "getImage", tag: "images", need: resource.RoleReader,
			summary: "Show one image", etag: true,
			params: []param{{name: "digest", in: "path", summary: "`sha256:` and hex", example: "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}},
			reply:  resource.Image{}, problems: []string{"not-found"}, serve: s.getImage,
		},
	}
}

// imageOf leaves out where the image lies on the controller's disk.
func imageOf(i store.Image) resource.Image {
	return resource.Image{
		Digest: i.Digest, Name: i.Name, Architecture: i.Architecture, SpecDigest: i.SpecDigest,
		RawBytes: i.RawBytes, StoredBytes: i.StoredBytes, CreatedAt: i.CreatedAt,
	}
}

func (s *Server) listImages(x *exchange) error {
	limit, err := x.limit()
	if err != nil {
		return err
	}
	at, err := x.cursor()
	if err != nil {
		return err
	}
	all, err := s.cfg.Catalog.Images(x.ctx()) // a site has a handful
	if err != nil {
		return err
	}
	var items []resource.Image
	passed := at == ""
	for _, i := range all {
		if passed && (x.query["name"] == "" || x.query["name"] == i.Name) {
			items = append(items, imageOf(i))
		}
		passed = passed || i.Digest == at
	}
	page := resource.Page[resource.Image]{}
	page.Items, page.Next, err = pageOf(x, items, limit, func(i resource.Image) string { return i.Digest })
	if err != nil {
		return err
	}
	return x.send(page)
}

func (s *Server) getImage(x *exchange) error {
	i, err := s.cfg.Catalog.Image(x.ctx(), x.PathValue("digest"))
	if err != nil {
		return err
	}
	return x.send(imageOf(i))
}
