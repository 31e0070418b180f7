package git

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"golang.org/x/net/http/httpproxy"
)

// lookupTime bounds one look into DNS.
const lookupTime = 20 * time.Second

// lookup is the system's resolver.
func lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// A guard keeps git from following a name to where no git server of others is:
// to this machine, to the networks behind it, to a cloud's metadata. A host
// that is written as an address, or as localhost, is meant as it stands.
type guard struct {
	scheme, host, port string
	lookup             func(ctx context.Context, host string) ([]netip.Addr, error)
}

// newGuard is nil where there is nothing to guard. Behind a proxy it is the
// proxy that looks the name up.
func newGuard(u *url.URL, proxied bool, c Config) *guard {
	host := u.Hostname()
	_, err := netip.ParseAddr(host)
	if c.Rules.AllowPrivate || proxied || err == nil || strings.EqualFold(host, "localhost") {
		return nil
	}
	g := &guard{scheme: u.Scheme, host: host, port: u.Port(), lookup: c.Lookup}
	if g.lookup == nil {
		g.lookup = lookup
	}
	g.port = cmp.Or(g.port, map[string]string{"https": "443", "http": "80"}[u.Scheme])
	return g
}

// look answers the addresses that the name has, of which none is private. None
// where there is nothing to guard, and for a name that only ssh knows, from its
// own config.
func (g *guard) look(ctx context.Context) ([]netip.Addr, error) {
	if g == nil {
		return nil, nil
	}
	looking, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	found, err := g.lookup(looking, g.host)
	var dns *net.DNSError
	if g.scheme == "ssh" && errors.As(err, &dns) && dns.IsNotFound {
		return nil, nil
	}
	if err == nil && len(found) == 0 {
		err = errors.New("no address")
	}
	if err != nil {
		return nil, fmt.Errorf("look up git host %s: %w", g.host, err)
	}
	var addrs []netip.Addr
	for _, a := range found {
		a = a.Unmap().WithZone("")
		if isPrivate(a) {
			return nil, fmt.Errorf("git host %s has the private address %s: set git.allowPrivate: true if repositories are to be fetched from there", g.host, a)
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
}

// bind answers git's settings that bind it to the addresses that were looked
// at, so that the name cannot name others a moment later. ssh cannot be bound.
func (g *guard) bind(ctx context.Context) ([][2]string, error) {
	addrs, err := g.look(ctx)
	if err != nil || len(addrs) == 0 || g.scheme == "ssh" {
		return nil, err
	}
	var pins []string
	for _, a := range addrs {
		pin := a.String()
		if a.Is6() {
			pin = "[" + pin + "]"
		}
		pins = append(pins, pin)
	}
	return [][2]string{{"http.curloptResolve", g.host + ":" + g.port + ":" + strings.Join(pins, ",")}}, nil
}

// isPrivate reports whether a is not the internet's: loopback, link-local
// (where most clouds have their metadata), RFC 1918, unique local, shared by a
// carrier, reserved, or one of the clouds' other metadata addresses.
func isPrivate(a netip.Addr) bool {
	if a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() {
		return true
	}
	for _, prefix := range []string{"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "198.18.0.0/15", "240.0.0.0/4", "168.63.129.16/32",
		"64:ff9b:1::/48", "2002::/16", "fec0::/10"} { // NAT64 of a site, 6to4, site-local
		if netip.MustParsePrefix(prefix).Contains(a) {
			return true
		}
	}
	if netip.MustParsePrefix("64:ff9b::/96").Contains(a) { // NAT64: an IPv4 address in its last bytes
		b := a.As16()
		return isPrivate(netip.AddrFrom4([4]byte(b[12:])))
	}
	return false
}

// proxyOf is the proxy that the environment (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY
// and NO_PROXY, in capitals or not) names for u, empty for none.
func proxyOf(u *url.URL) (string, error) {
	if u.Scheme == "ssh" {
		return "", nil
	}
	env := httpproxy.FromEnvironment()
	all := cmp.Or(os.Getenv("ALL_PROXY"), os.Getenv("all_proxy"))
	env.HTTPProxy, env.HTTPSProxy = cmp.Or(env.HTTPProxy, all), cmp.Or(env.HTTPSProxy, all)
	for _, proxy := range []string{env.HTTPProxy, env.HTTPSProxy} {
		if !strings.Contains(proxy, "://") {
			proxy = "http://" + proxy
		}
		if _, err := url.Parse(proxy); err != nil { // ProxyFunc would go round it
			return "", errors.New("a proxy in the environment (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY) is no URL") // it may have a password
		}
	}
	proxy, err := env.ProxyFunc()(u)
	if err != nil {
		return "", fmt.Errorf("find the proxy for %s: %w", u.Host, err)
	}
	if proxy == nil {
		return "", nil
	}
	return proxy.String(), nil
}
