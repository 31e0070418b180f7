package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/version"
)

// tagsPerImage is how many version tags each image of a made index has, each of a release of its own with one platform: what
// the builds of years leave behind.
const tagsPerImage = 250

// madeAt is when the first release of a made index was asked for.
var madeAt = time.Date(2026, 1, 1, 10, 0, 0, 0, time.UTC)

func madeImage(i int) string { return fmt.Sprintf("teams/service-%06d", i/tagsPerImage) }

// madeTag sorts bytewise as its number does.
func madeTag(i int) string { return fmt.Sprintf("v1.%d.0", 1000+i%tagsPerImage) }

// madeRelease is the i-th release of a made index, with one record.
func madeRelease(i int) imgd.Release {
	image, tag := madeImage(i), madeTag(i)
	root := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(fmt.Sprint("root ", i)), Size: 479}
	platform := root
	platform.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	asked := madeAt.Add(time.Duration(i) * time.Second)
	request := imgd.Request{
		ID: fmt.Sprintf("%032x", i+1), Project: fmt.Sprintf("service-%06d", i/tagsPerImage), Ref: "refs/tags/" + tag, Commit: fmt.Sprintf("%040x", i+1),
		AskedAt: asked, CommitTime: asked, Describe: tag, Version: tag,
	}
	return imgd.Release{
		ID: request.ID + "-1", Image: image, Repositories: []string{"registry.example.com/" + image}, State: imgd.ReleasePublished,
		Request: request, Root: root, Platforms: []ocispec.Descriptor{platform}, Tags: []imgd.ReleaseTag{{Name: tag, Kind: version.KindVersion, Generation: 1}},
		Source: "https://git.example.com/" + image, Labels: map[string]string{"env": "prod"},
		AdmittedAt: asked, PublishedAt: asked.Add(time.Second), Seq: uint64(2*i + 2),
	}
}

// newRelease is the i-th as it is before it is admitted. Another CI has pushed it: so nobody has to be asked.
func newRelease(i int) imgd.Release {
	r := madeRelease(i)
	r.ID, r.State, r.Pushed, r.Seq, r.AdmittedAt, r.PublishedAt = "", "", true, 0, time.Time{}, time.Time{}
	r.Tags[0].Generation = 0
	return r
}

// recordLine is the one record of a release as images.json has it.
func recordLine(r imgd.Release) []byte {
	line, err := json.Marshal(r.Records()[0])
	if err != nil {
		panic("unreachable: records marshal: " + err.Error())
	}
	return line
}

// makeIndex writes an images.json of n records into dir, as imgd would, and answers its length in bytes.
func makeIndex(dir string, n int) (int64, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, err
	}
	file, err := os.Create(filepath.Join(dir, "images.json"))
	if err != nil {
		return 0, err
	}
	defer file.Close()
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	w := bufio.NewWriterSize(io.MultiWriter(file, sum), 1<<20)
	fmt.Fprintf(w, `{"schema":1,"id":"%032x","seq":%d,"hash":"%064x","told":%d,`, 7, 2*n, 7, 2*n)
	for _, list := range []struct {
		name    string
		element func(imgd.Release) any
	}{
		{"records", func(r imgd.Release) any { return json.RawMessage(recordLine(r)) }},
		{"tags", func(r imgd.Release) any {
			return struct {
				Image      string       `json:"image"`
				Tag        string       `json:"tag"`
				Kind       version.Kind `json:"kind"`
				Generation uint64       `json:"generation"`
				Holder     string       `json:"holder"`
			}{r.Image, r.Tags[0].Name, r.Tags[0].Kind, 1, r.ID}
		}},
		{"releases", func(r imgd.Release) any { return r }},
	} {
		fmt.Fprintf(w, "%q:[", list.name)
		for i, separator := 0, "\n"; i < n; i, separator = i+1, ",\n" {
			line, err := json.Marshal(list.element(madeRelease(i)))
			if err != nil {
				return 0, err
			}
			w.WriteString(separator)
			w.Write(line)
		}
		w.WriteString("],")
	}
	w.WriteByte('\n')
	if err := w.Flush(); err != nil { // of everything above
		return 0, err
	}
	if _, err := fmt.Fprintf(file, "\"crc32c\":\"%08x\"}\n", sum.Sum32()); err != nil {
		return 0, err
	}
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), file.Close()
}
