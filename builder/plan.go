package builder

import (
	"strings"

	"github.com/imgd/imgd"
)

// Plan is imgd.Planner.Plan: the very attributes that Build gives to BuildKit.
func (b *Builder) Plan(p imgd.Project, req imgd.Request) (imgd.Plan, error) {
	attrs, err := attrsOf(p, req)
	if err != nil {
		return imgd.Plan{}, err
	}
	annotations, err := annotations(p, req)
	if err != nil {
		return imgd.Plan{}, err
	}
	plan := imgd.Plan{Platforms: strings.Split(attrs["platform"], ","), Dockerfile: attrs["filename"], Target: attrs["target"],
		Args: map[string]string{}, Labels: map[string]string{}, Annotations: annotations}
	for name, value := range attrs {
		if arg, ok := strings.CutPrefix(name, "build-arg:"); ok {
			plan.Args[arg] = value
		}
		if label, ok := strings.CutPrefix(name, "label:"); ok {
			plan.Labels[label] = value
		}
	}
	return plan, nil
}
