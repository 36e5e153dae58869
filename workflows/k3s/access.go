package k3s

import "context"

// access is what it takes to speak to a cluster as its administrator.
type access struct{}

// client speaks to the API of one server.
type client struct{}

func connect(context.Context, access) (*client, error) { return &client{}, nil }
