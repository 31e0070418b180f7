package imgd

import (
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
)

// A Comparison says whether two images are the same, and if not the first thing
// in which they differ.
type Comparison struct {
	Repository string        `json:"repository"` // registry/name where both were read
	A          digest.Digest `json:"a"`          // roots
	B          digest.Digest `json:"b"`
	Same       bool          `json:"same"` // the same manifest for each platform, whatever their roots
	Difference *Difference   `json:"difference,omitempty"`
}

// The parts of an image, in the order in which they are compared.
const (
	PartRoot      = "root"
	PartPlatforms = "platforms"
	PartManifest  = "manifest"
	PartConfig    = "config"
	PartLayer     = "layer"
)

// Fields of a difference that do not stand in the image's own JSON or headers.
const (
	FieldName    = "name"    // another file stands at this place of the layer; "" is none
	FieldContent = "content" // of a file
	FieldModTime = "mtime"   // of a file: nothing else differs in this layer
	FieldBytes   = "bytes"   // the same in all that was compared, written otherwise
	FieldDigest  = "digest"  // of a layer that cannot be looked into
	FieldCount   = "count"   // of layers
)

// A Difference is one thing in which two images are not the same. What was
// longer is cut, and what does not print is escaped as in a Go string.
type Difference struct {
	Platform string `json:"platform,omitempty"` // whose manifest, config or layer
	Part     string `json:"part"`
	Layer    int    `json:"layer,omitempty"` // its number, from 1
	File     string `json:"file,omitempty"`  // in the layer
	Field    string `json:"field,omitempty"` // path in the JSON of manifest or config, field of a file's header, or one of those above
	A        string `json:"a"`               // JSON of a manifest or config; "" where it is missing
	B        string `json:"b"`
}

// Where names what differs: linux/amd64, layer 2, file bin/app: content.
func (d Difference) Where() string {
	var at []string
	if d.Platform != "" {
		at = append(at, d.Platform)
	}
	part := d.Part
	if d.Layer > 0 {
		part = fmt.Sprintf("%s %d", part, d.Layer)
	}
	at = append(at, part)
	if d.File != "" {
		at = append(at, "file "+d.File)
	}
	where := strings.Join(at, ", ")
	if d.Field != "" {
		where += ": " + d.Field
	}
	return where
}
