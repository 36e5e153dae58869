package site

import (
	"encoding/binary"
	"net/netip"

	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
)

// prefixArg reads the first argument of the cidr functions.
func prefixArg(args []cty.Value) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(args[0].AsString())
	switch {
	case err != nil:
		return p, function.NewArgErrorf(0, "%q is not an IPv4 network such as 172.22.0.0/24", clip(args[0].AsString()))
	case !p.Addr().Is4():
		return p, function.NewArgErrorf(0, "%q is an IPv6 network, and this version knows IPv4 only", clip(args[0].AsString()))
	}
	return p.Masked(), nil
}

// offset is the address n after the start of p.
func offset(p netip.Prefix, n uint64) netip.Addr {
	base := p.Addr().As4()
	var out [4]byte
	binary.BigEndian.PutUint32(out[:], binary.BigEndian.Uint32(base[:])+uint32(n))
	return netip.AddrFrom4(out)
}

// size is how many addresses a network has.
func size(p netip.Prefix) uint64 { return 1 << (32 - p.Bits()) }

// cidrHostFunc is cidrhost(network, n): the n-th address, from the end when n
// is negative.
var cidrHostFunc = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "network", Type: cty.String}, {Name: "host", Type: cty.Number}},
	Type:   function.StaticReturnType(cty.String),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		p, err := prefixArg(args)
		if err != nil {
			return cty.NilVal, err
		}
		n, err := number(args, 1)
		if err != nil {
			return cty.NilVal, err
		}
		count := int64(size(p))
		at := int64(n)
		if at < 0 {
			at += count
		}
		if at < 0 || at >= count {
			return cty.NilVal, function.NewArgErrorf(1, "%s has %d addresses, so there is no host number %d", p, count, n)
		}
		return cty.StringVal(offset(p, uint64(at)).String()), nil
	},
})

// cidrNetmaskFunc is cidrnetmask(network).
var cidrNetmaskFunc = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "network", Type: cty.String}},
	Type:   function.StaticReturnType(cty.String),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		p, err := prefixArg(args)
		if err != nil {
			return cty.NilVal, err
		}
		var mask [4]byte
		binary.BigEndian.PutUint32(mask[:], uint32(uint64(1<<32)-size(p)))
		return cty.StringVal(netip.AddrFrom4(mask).String()), nil
	},
})

// cidrSubnetFunc is cidrsubnet(network, newbits, n).
var cidrSubnetFunc = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "network", Type: cty.String}, {Name: "newbits", Type: cty.Number}, {Name: "number", Type: cty.Number}},
	Type:   function.StaticReturnType(cty.String),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		p, err := prefixArg(args)
		if err != nil {
			return cty.NilVal, err
		}
		bits, err := number(args, 1)
		if err != nil {
			return cty.NilVal, err
		}
		n, err := number(args, 2)
		if err != nil {
			return cty.NilVal, err
		}
		if bits < 0 || p.Bits()+bits > 32 {
			return cty.NilVal, function.NewArgErrorf(1, "a prefix of %d bits cannot be extended by %d: IPv4 has 32", p.Bits(), bits)
		}
		if n < 0 || uint64(n) >= 1<<bits {
			return cty.NilVal, function.NewArgErrorf(2, "%d more bits number the subnets 0 to %d, so there is no %d", bits, 1<<bits-1, n)
		}
		sub := netip.PrefixFrom(p.Addr(), p.Bits()+bits)
		return cty.StringVal(netip.PrefixFrom(offset(p, uint64(n)*size(sub)), sub.Bits()).String()), nil
	},
})

// cidrSubnetsFunc is cidrsubnets(network, newbits...): consecutive subnets.
var cidrSubnetsFunc = function.New(&function.Spec{
	Params:   []function.Parameter{{Name: "network", Type: cty.String}},
	VarParam: &function.Parameter{Name: "newbits", Type: cty.Number},
	Type:     function.StaticReturnType(cty.List(cty.String)),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		p, err := prefixArg(args)
		if err != nil {
			return cty.NilVal, err
		}
		if len(args) == 1 {
			return cty.ListValEmpty(cty.String), nil
		}
		var out []cty.Value
		next := uint64(0)
		for i := 1; i < len(args); i++ {
			bits, err := number(args, i)
			if err != nil {
				return cty.NilVal, err
			}
			if bits < 1 || p.Bits()+bits > 32 {
				return cty.NilVal, function.NewArgErrorf(i, "a prefix of %d bits cannot be extended by %d: IPv4 has 32", p.Bits(), bits)
			}
			sub := netip.PrefixFrom(p.Addr(), p.Bits()+bits)
			// A subnet starts at a multiple of its own size.
			next = (next + size(sub) - 1) / size(sub) * size(sub)
			if next+size(sub) > size(p) {
				return cty.NilVal, function.NewArgErrorf(i, "%s has no room for this subnet after those before it", p)
			}
			out = append(out, cty.StringVal(netip.PrefixFrom(offset(p, next), sub.Bits()).String()))
			next += size(sub)
		}
		return cty.ListVal(out), nil
	},
})
