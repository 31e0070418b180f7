package version

import (
	"fmt"
	"strings"
)

// ask asks one rule. The error is that its enable is neither true nor false.
func (n *naming) ask(r rule) (answer, error) {
	switch enabled := n.fill(r.enable); enabled {
	case "true":
	case "false":
		return answer{note: "enable is false"}, nil
	default:
		return answer{}, fmt.Errorf("rule %.*q: enable is %.*q: want true or false", shown, r.text, shown, enabled)
	}
	a := n.give(r)
	if a.value == "" && a.note != "" {
		return a, nil
	}
	if a.value = n.before(r) + a.value + n.after(r); a.value == "" {
		a.note = "its value is empty"
	}
	return a, nil
}

func (n *naming) before(r rule) string {
	if r.prefix != nil {
		return n.fill(*r.prefix)
	}
	return n.fill(n.rules.flavor.prefix.expression)
}

func (n *naming) after(r rule) string {
	if r.suffix != nil {
		return n.fill(*r.suffix)
	}
	return n.fill(n.rules.flavor.suffix.expression)
}

func nothing(format string, args ...any) answer { return answer{note: fmt.Sprintf(format, args...)} }

// give is what the rule's type gives, without prefix and suffix.
func (n *naming) give(r rule) answer {
	switch r.kind {
	case "schedule":
		if !strings.Contains(n.Event, "schedule") {
			return nothing("the build was not asked for by a schedule")
		}
		return answer{value: n.fill(r.pattern), kind: KindOther}
	case "semver":
		return n.giveVersion(r, n.semver)
	case "pep440":
		return n.giveVersion(r, n.pep440)
	case "match":
		return n.giveMatch(r)
	case "edge":
		return n.giveEdge(r)
	case "ref":
		return n.giveRef(r)
	case "describe":
		if n.Describe == "" {
			return nothing("no version tag is reachable from the commit")
		}
		return answer{value: n.Describe, kind: KindOther}
	case "raw":
		return answer{value: n.fill(r.value), kind: KindOther}
	case "sha":
		return n.giveSHA(r)
	}
	panic("unreachable: unknown types are refused by Parse: " + r.kind)
}

// subject is what semver, pep440 and match look at: value if there is one, else the git tag.
func (n *naming) subject(r rule) (s string, why answer) {
	if len(r.value) > 0 {
		if s = n.fill(r.value); len(s) > maxRef {
			return "", nothing("the value is longer than %d bytes", maxRef)
		}
		return s, answer{}
	}
	if !n.name.isTag {
		return "", nothing("%s is no tag, and there is no value", cut(n.Ref))
	}
	return n.name.tag, answer{}
}

// giveVersion is a semver or pep440 rule.
func (n *naming) giveVersion(r rule, read func(rule, string) answer) answer {
	s, why := n.subject(r)
	if why.note != "" {
		return why
	}
	if len(r.value) == 0 {
		rest, ok := strings.CutPrefix(s, n.Prefix)
		if !ok {
			return nothing("tag %s does not begin with the project's prefix %s", cut(s), cut(n.Prefix))
		}
		s = rest
	}
	var ignored string
	if r.re != nil {
		if groups := r.re.FindStringSubmatchIndex(s); groups != nil && groups[2] >= 0 {
			s = s[groups[2]:groups[3]]
		} else {
			ignored = fmt.Sprintf("match %s does not match %s, which was taken whole", cut(r.re.String()), cut(s))
		}
	}
	a := read(r, strings.ReplaceAll(s, "/", "-"))
	if ignored != "" && a.note != "" {
		ignored += "; "
	}
	a.note = ignored + a.note
	return a
}

func (n *naming) semver(r rule, s string) answer {
	v, ok := nodeSemver(s)
	if !ok {
		return nothing("%s is no semver, as v1.2.3 is", cut(s))
	}
	a := answer{kind: n.series(), latest: v.pre == ""}
	pattern := r.pattern
	if r.full {
		a.kind = KindVersion
	}
	if v.pre != "" {
		a.kind = KindVersion
		if !r.raw {
			pattern = wholeVersion
			a.note = note(r, "of a prerelease only the whole version is given")
		}
	}
	a.value = pattern.expand(v.part)
	return a
}

// note is text if the rule asked for something else than the whole version.
func note(r rule, text string) string {
	if len(r.pattern) == 1 && r.pattern[0].name == "version" {
		return ""
	}
	return text
}

func (n *naming) pep440(r rule, s string) answer {
	v, ok := readPEP440(s)
	if !ok {
		return nothing("%s is no version by PEP 440, as 1.2.3 or 1.2rc1 is", cut(s))
	}
	switch {
	case v.final():
		a := answer{value: r.pattern.expand(v.part), kind: n.series(), latest: true}
		if r.full {
			a.kind = KindVersion
		}
		return a
	case r.raw:
		return answer{value: s, kind: KindVersion}
	}
	return answer{value: v.String(), kind: KindVersion, note: note(r, "of a pre-, post- or dev release only the whole version is given")}
}

func (n *naming) giveMatch(r rule) answer {
	s, why := n.subject(r)
	if why.note != "" {
		return why
	}
	groups := r.re.FindStringSubmatchIndex(s)
	if groups == nil {
		return nothing("%s does not match %s", cut(r.re.String()), cut(s))
	}
	if r.all {
		groups = nil
		for _, at := range r.re.FindAllStringIndex(s, r.group+1) {
			groups = append(groups, at...)
		}
	}
	if 2*r.group >= len(groups) || groups[2*r.group] < 0 {
		return nothing("group %d of %s has nothing of %s", r.group, cut(r.re.String()), cut(s))
	}
	return answer{value: s[groups[2*r.group]:groups[2*r.group+1]], kind: KindOther, latest: true}
}

func (n *naming) giveEdge(r rule) answer {
	branch := r.branch
	if branch == "" {
		branch = n.DefaultBranch
	}
	switch {
	case !n.name.isBranch:
		return nothing("%s is no branch", cut(n.Ref))
	case branch == "":
		return nothing("the default branch is not known")
	case n.name.branch != branch:
		return nothing("branch %s is not %s", cut(n.name.branch), cut(branch))
	}
	return answer{value: "edge", kind: KindBranch}
}

func (n *naming) giveRef(r rule) answer {
	switch {
	case r.event == "branch" && n.name.isBranch:
		return answer{value: n.name.branch, kind: KindBranch}
	case r.event == "tag" && n.name.isTag:
		return answer{value: n.name.tag, kind: KindVersion, latest: true}
	case r.event == "pr" && n.name.pull != "":
		return answer{value: n.name.pull, kind: KindBranch, pull: true}
	}
	return nothing("%s is no %s", cut(n.Ref), map[string]string{"branch": "branch", "tag": "tag", "pr": "pull request"}[r.event])
}

func (n *naming) giveSHA(r rule) answer {
	switch {
	case n.Commit == "":
		return nothing("the commit is not known")
	case r.long:
		return answer{value: n.Commit, kind: KindCommit, pull: true}
	}
	return answer{value: n.Commit[:metaCommitLen], kind: KindCommit, pull: true}
}
