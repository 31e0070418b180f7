package kit

import (
	"fmt"
	"net"
	"os"
	"sync/atomic"
)

// hosts counts the addresses that this process has for itself.
var hosts atomic.Uint32

// ownHost is an address of the loopback that nothing else uses. A port there can be given up for a while and taken again:
// what asks for any free port has one of 127.0.0.1, and so has each outgoing connection.
func ownHost() string {
	n := hosts.Add(1)
	return fmt.Sprintf("127.%d.%d.%d", 64+os.Getpid()%128, n>>8&0xff, n&0xff)
}

// OwnPort is a host:port that nothing else uses, for a server that cannot choose one itself.
func OwnPort() (string, error) {
	listener, err := net.Listen("tcp", ownHost()+":0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}
