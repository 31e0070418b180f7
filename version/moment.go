package version

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// A moment is a date format of Moment.js (https://momentjs.com/docs/#/displaying/format/), in English, as its tokens.
type moment []token

// A token is one token of a format, or text.
type token struct{ name, text string }

var (
	// shortForms are the tokens that stand for formats of their own.
	shortForms = regexp.MustCompile(`\[[^\[]*\]|\\?(?:LTS|LT|LL?L?L?|l{1,4})`)
	// momentToken is one token: the longest that begins here, else one character.
	momentToken = regexp.MustCompile(`(?s)\[[^\[]*\]|\\?(?:[Hh]mm(?:ss)?|Mo|M{1,4}|Do|DDDo|D{1,4}|d{2,4}|do?|w[ow]?|W[oW]?|Qo?|N{1,5}|YYYYYY|YYYYY|YYYY|YY` +
		`|y{2,4}|yo?|gg(?:ggg?)?|GG(?:GGG?)?|e|E|a|A|hh?|HH?|kk?|mm?|ss?|S{1,9}|x|X|zz?|ZZ?|.)`)
)

func longForm(short string) string {
	forms := map[string]string{
		"LTS": "h:mm:ss A", "LT": "h:mm A", "L": "MM/DD/YYYY", "LL": "MMMM D, YYYY", "LLL": "MMMM D, YYYY h:mm A", "LLLL": "dddd, MMMM D, YYYY h:mm A",
		"l": "M/D/YYYY", "ll": "MMM D, YYYY", "lll": "MMM D, YYYY h:mm A", "llll": "ddd, MMM D, YYYY h:mm A",
	}
	if long, ok := forms[short]; ok {
		return long
	}
	return short // [text] or escaped
}

// parseMoment reads a format. What is no token stands for itself, as Moment.js has it; its eras are an error.
func parseMoment(format string) (moment, error) {
	var m moment
	for _, s := range momentToken.FindAllString(shortForms.ReplaceAllStringFunc(format, longForm), -1) {
		switch {
		case len(s) > 1 && s[0] == '[':
			m = append(m, token{text: s[1 : len(s)-1]})
		case s[0] == '\\':
			m = append(m, token{text: s[1:]})
		case s[0] == 'N' || s[0] == 'y':
			return nil, fmt.Errorf("date format %.*q: eras (%s) are not supported", shown, format, s)
		case strings.IndexByte("MDdwWQYgGeEaAhHkmsSxXzZ", s[0]) >= 0 && s != "g" && s != "G":
			m = append(m, token{name: s})
		default:
			m = append(m, token{text: s})
		}
	}
	return m, nil
}

// of is t in the format.
func (m moment) of(t time.Time) string {
	var all strings.Builder
	for _, token := range m {
		if token.name == "" {
			all.WriteString(token.text)
		} else {
			all.WriteString(token.of(t))
		}
	}
	return all.String()
}

func (k token) of(t time.Time) string {
	switch k.name[0] {
	case 'M', 'Q', 'D', 'Y':
		return k.ofDate(t)
	case 'd', 'e', 'E', 'w', 'W', 'g', 'G':
		return k.ofWeek(t)
	}
	return k.ofTime(t)
}

func (k token) ofDate(t time.Time) string {
	switch k.name {
	case "M", "MM", "MMM", "MMMM":
		return t.Format(map[string]string{"M": "1", "MM": "01", "MMM": "Jan", "MMMM": "January"}[k.name])
	case "Mo":
		return ordinal(int(t.Month()))
	case "Q":
		return fmt.Sprint(int(t.Month()-1)/3 + 1)
	case "Qo":
		return ordinal(int(t.Month()-1)/3 + 1)
	case "D":
		return fmt.Sprint(t.Day())
	case "Do":
		return ordinal(t.Day())
	case "DD":
		return t.Format("02")
	case "DDD":
		return fmt.Sprint(t.YearDay())
	case "DDDo":
		return ordinal(t.YearDay())
	case "DDDD":
		return t.Format("002")
	case "YY":
		return t.Format("06")
	case "YYYYY":
		return fmt.Sprintf("%05d", t.Year())
	case "YYYYYY":
		return fmt.Sprintf("%+07d", t.Year())
	}
	return fmt.Sprintf("%04d", t.Year()) // Y, YYYY
}

func (k token) ofWeek(t time.Time) string {
	day := int(t.Weekday())
	isoYear, isoWeek := t.ISOWeek()
	year, week := americanWeek(t)
	switch k.name {
	case "d", "e":
		return fmt.Sprint(day)
	case "do":
		return ordinal(day)
	case "dd":
		return t.Weekday().String()[:2]
	case "ddd":
		return t.Weekday().String()[:3]
	case "dddd":
		return t.Weekday().String()
	case "E":
		return fmt.Sprint((day+6)%7 + 1)
	case "w", "W":
		return fmt.Sprint(pick(k.name, week, isoWeek))
	case "wo", "Wo":
		return ordinal(pick(k.name, week, isoWeek))
	case "ww", "WW":
		return fmt.Sprintf("%02d", pick(k.name, week, isoWeek))
	case "gg", "GG":
		return fmt.Sprintf("%02d", pick(k.name, year, isoYear)%100)
	}
	return fmt.Sprintf("%0*d", len(k.name), pick(k.name, year, isoYear)) // gggg, ggggg, GGGG, GGGGG
}

func pick(name string, american, iso int) int {
	if name[0] == 'W' || name[0] == 'G' {
		return iso
	}
	return american
}

// americanWeek is the year and the week of t where weeks begin on Sunday and the first one has the first of January.
func americanWeek(t time.Time) (year, week int) {
	first := func(year int) int { return int(time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC).Weekday()) }
	days := time.Date(t.Year(), 12, 31, 0, 0, 0, 0, time.UTC).YearDay()
	week = (t.YearDay()+first(t.Year())-1)/7 + 1
	if weeks := (days + first(t.Year()) - first(t.Year()+1)) / 7; week > weeks {
		return t.Year() + 1, week - weeks
	}
	return t.Year(), week
}

func (k token) ofTime(t time.Time) string {
	switch k.name {
	case "a":
		return t.Format("pm")
	case "A":
		return t.Format("PM")
	case "k":
		return fmt.Sprint((t.Hour()+23)%24 + 1)
	case "kk":
		return fmt.Sprintf("%02d", (t.Hour()+23)%24+1)
	case "H":
		return fmt.Sprint(t.Hour())
	case "Hmm":
		return fmt.Sprint(t.Hour()) + t.Format("04")
	case "Hmmss":
		return fmt.Sprint(t.Hour()) + t.Format("0405")
	case "X":
		return fmt.Sprint(t.Unix())
	case "x":
		return fmt.Sprint(t.UnixMilli())
	case "z", "zz":
		return t.Format("MST")
	}
	if k.name[0] == 'S' { // of a time that has milliseconds
		return fmt.Sprintf("%03d000000", t.Nanosecond()/1e6)[:len(k.name)]
	}
	return t.Format(map[string]string{"h": "3", "hh": "03", "HH": "15", "hmm": "304", "hmmss": "30405", "m": "4", "mm": "04", "s": "5", "ss": "05",
		"Z": "-07:00", "ZZ": "-0700"}[k.name])
}

// ordinal is 1st, 2nd, 3rd, 4th, 11th.
func ordinal(n int) string {
	end := "th"
	if n%100/10 != 1 {
		switch n % 10 {
		case 1:
			end = "st"
		case 2:
			end = "nd"
		case 3:
			end = "rd"
		}
	}
	return fmt.Sprint(n) + end
}
