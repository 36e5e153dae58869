package steps

import "github.com/edge-provision/edge-provision/workflows/site"

// Types are the step types that site.hcl may use, in the order in which the
// documentation lists them.
var Types = []Type{
	sshType,
	fileType,
	waitType,
	rebootType,
	powerType,
	wipeType,
}

// Shapes is Types as the decoder of site.hcl wants them.
func Shapes() map[string]site.StepType {
	out := map[string]site.StepType{}
	for _, t := range Types {
		out[t.Name] = t.Shape
	}
	return out
}

// Find returns the type of a name that site.Load has accepted.
func Find(name string) (Type, bool) {
	for _, t := range Types {
		if t.Name == name {
			return t, true
		}
	}
	return Type{}, false
}
