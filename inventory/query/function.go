package query

import (
	"math/big"

	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
)

// units maps each unit function to its factor. Sizes are in bytes; frequencies
// in MHz and rates in Mb/s, because that is what max_speed_mhz and speed_mbps
// count in.
var units = map[string]int64{
	"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40, "PiB": 1 << 50,
	"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15,
	"MHz": 1, "GHz": 1e3,
	"Mbps": 1, "Gbps": 1e3,
}

// Functions are the unit functions (GiB(8), GB(500), GHz(2), Gbps(10) and so
// on), each from a number to a number: bytes, MHz or Mb/s. The site's evaluation
// context offers the same ones. The returned map is the caller's.
func Functions() map[string]function.Function {
	out := make(map[string]function.Function, len(units))
	for name, factor := range units {
		out[name] = unitFunction(name, factor)
	}
	return out
}

func unitFunction(name string, factor int64) function.Function {
	by := new(big.Float).SetInt64(factor)
	return function.New(&function.Spec{
		Description: name + " converts a number of " + name + " to the unit that facts are counted in.",
		Params:      []function.Parameter{{Name: "number", Type: cty.Number}},
		Type:        function.StaticReturnType(cty.Number),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			return args[0].Multiply(cty.NumberVal(by)), nil
		},
	})
}
