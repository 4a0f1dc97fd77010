// SPDX-License-Identifier: Apache-2.0

package support

import (
	"bytes"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
)

// Parts of the patterns below.
const (
	names = `passw(?:or)?d|passwd|passphrase|pwd|secret|token|credential|cookie|private[_-]?key|access[_-]?key|api[_-]?key|user[_-]?data|psk`

	// What stands between a name and its value. A name may be in quotes, which are escaped
	// where JSON is logged in JSON.
	is    = `\\*["']?[ \t]*[:=][ \t]*`
	tight = `\\*["']?=`
	loose = `\\*["']?(?:[ \t]+=|[ \t]*:)[ \t]*`

	// Values of JSON, YAML and shell: a list, an object, text in quotes, lines that are
	// indented; or without quotes a word, and what is left of a line after a colon.
	whole  = `\[[^\]]*\]|\{[^{}]*\}|\\+"[^"]*"|"(?:\\.|[^"\\])*"?|'[^'\n]*'?|[|>][+-]?[ \t]*\n(?:[ \t]+[^\n]*\n?)+`
	word   = `(` + whole + `|[^\s"']+)`
	line   = `(` + whole + `|[^\n"]+)`
	noPath = `(\\+"[^"/][^"]*"|"[^"/](?:\\.|[^"\\])*"?|'[^'/\n][^'\n]*'?|[^\s"'/\\\[{][^\s"']*)` // where a key is may be told
)

// look is what a secret looks like: the group of the pattern is what is taken out. The
// pattern is tried if one of the words is there, in small letters, for most texts have
// none of them and patterns take their time.
type look struct {
	words   []string
	pattern *regexp.Regexp
}

var nameWords = []string{"pass", "pwd", "secret", "token", "credential", "cookie", "key", "data", "psk"}

var secrets = []look{
	// Keys and certificates in PEM; one that begins before the text, or goes on after it.
	{[]string{"-----begin "}, regexp.MustCompile(`(?s)(-----BEGIN [A-Z0-9 ]+-----.*?(?:-----END [A-Z0-9 ]+-----|\z))`)},
	{[]string{"-----end "}, regexp.MustCompile(`(?s)\A(.*-----END [A-Z0-9 ]+-----)`)},
	{[]string{"ls0tls1crudjti"}, regexp.MustCompile(`(LS0tLS1CRUdJTi[A-Za-z0-9+/_=-]+)`)}, // base64 of -----BEGIN
	// Tokens by their prefix: tandem's, and those of others that people paste.
	{[]string{"tandem1.", "tandem-api."}, regexp.MustCompile(`((?:tandem1|tandem-api)\.[A-Za-z0-9._~+/=-]+)`)},
	{[]string{"gh", "glpat-", "xox", "akia", "eyj"}, regexp.MustCompile(`\b((?:gh[opsur]_|github_pat_|glpat-|xox[abprs]-)[A-Za-z0-9_-]{10,}|AKIA[0-9A-Z]{16}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)`)},
	{[]string{"$"}, regexp.MustCompile(`(\$(?:1|2[abxy]?|5|6|7|y|gy|argon2[id]{1,2}|scrypt)\$[^\s:"',\\]+)`)}, // crypt(5)
	// By what stands before them.
	{[]string{"authorization"}, regexp.MustCompile(`(?i)\bauthorization` + is + `["']?(?:[a-z]+[ \t]+)?([^\s"',\\]+)`)},
	{[]string{"bearer"}, regexp.MustCompile(`(?i)\bbearer[ \t]+([A-Za-z0-9._~+/=-]{8,})`)},
	{[]string{"://"}, regexp.MustCompile(`(?i)\b[a-z][a-z0-9+.-]*://([^/\s"'@\\]+)@`)},
	{nameWords, regexp.MustCompile(`(?i)(?:` + names + `)[\w.-]*` + tight + word)},
	{nameWords, regexp.MustCompile(`(?i)(?:` + names + `)[\w.-]*` + loose + line)},
	{[]string{"pw"}, regexp.MustCompile(`(?i)pw` + tight + word)},
	{[]string{"pw"}, regexp.MustCompile(`(?i)pw` + loose + line)},
	{nameWords, regexp.MustCompile(`(?i)--?[\w-]*(?:` + names + `)[\w-]*(?:\\*["'][ \t]*,[ \t]*\\*["']|[ \t]+)([^\s"',\\-][^\s"',\\]*)`)},
	{[]string{"key"}, regexp.MustCompile(`(?i)\b(?:[\w-]*[_-])?key` + is + noPath)},
	{[]string{"append"}, regexp.MustCompile(`\\"append\\"[ \t]*:[ \t]*` + word)}, // see redactAppend
}

// done is what was taken out already.
var done = regexp.MustCompile(`\A\[secret-[0-9a-f]{8}\]\z`)

// redact takes out of a text what is a secret.
func (b *Bundle) redact(text []byte) []byte {
	text = b.redactAppend(text)
	small := bytes.ToLower(text)
	for _, l := range secrets {
		if slices.ContainsFunc(l.words, func(w string) bool { return bytes.Contains(small, []byte(w)) }) {
			text = b.replace(text, l.pattern)
		}
	}
	return text
}

// replace takes out the groups of a pattern. What is in quotes stays in quotes, so that
// JSON stays JSON.
func (b *Bundle) replace(text []byte, r *regexp.Regexp) []byte {
	found := r.FindAllSubmatchIndex(text, -1)
	if found == nil {
		return text
	}
	var out bytes.Buffer
	at := 0
	for _, m := range found {
		from, to := m[2], m[3]
		open, secret, shut := unquote(text[from:to])
		if len(secret) == 0 || done.Match(secret) {
			continue
		}
		out.Write(text[at:from])
		out.WriteString(open + b.stand(secret) + shut)
		at = to
	}
	out.Write(text[at:])
	return out.Bytes()
}

// unquote takes off a value what is not its own: quotes, and what follows it in JSON. A
// list, an object or a number is given quotes, since what stands for it is a string.
func unquote(v []byte) (open string, inner []byte, shut string) {
	inner = bytes.TrimLeft(v, `\`)
	switch {
	case done.Match(v) || len(inner) == 0:
		return "", v, ""
	case inner[0] == '"' || inner[0] == '\'':
		open = string(v[:len(v)-len(inner)+1])
		inner = inner[1:]
		if bytes.HasSuffix(inner, []byte(open)) {
			return open, inner[:len(inner)-len(open)], open
		}
		return open, inner, "" // it was cut off
	case v[0] == '[' && v[len(v)-1] == ']' || v[0] == '{' && v[len(v)-1] == '}':
		return `"`, v, `"`
	}
	inner = bytes.TrimRight(v, "]},; \t\r\n\\")
	if shut = string(v[len(inner):]); json.Valid(inner) { // a number
		return `"`, inner, `"` + shut
	}
	return "", inner, shut
}

// appended is a VM's kernel command line, as the API tells it.
var appended = regexp.MustCompile(`("append"[ \t]*:[ \t]*")((?:\\.|[^"\\])*)`)

// parameters of kernels that are told with their values. Of others only the name is.
var parameters = []string{"console", "earlycon", "init", "initrd", "ip", "loglevel", "mem", "mitigations", "net.ifnames", "panic",
	"root", "rootdelay", "rootflags", "rootfstype", "systemd.unit", "tandem.ip"}

// redactAppend takes the values out of kernel command lines, which programs in guests
// read too: installers are given passwords there.
func (b *Bundle) redactAppend(text []byte) []byte {
	return appended.ReplaceAllFunc(text, func(m []byte) []byte {
		part := appended.FindSubmatch(m)
		line := string(part[2])
		if strings.ContainsAny(line, `\`) { // quotes, and spaces that end nothing
			line = b.stand(part[2])
		}
		words := strings.Split(line, " ")
		for i, w := range words {
			if name, v, ok := strings.Cut(w, "="); ok && v != "" && !done.MatchString(v) && !slices.Contains(parameters, name) {
				words[i] = name + "=" + b.stand([]byte(v))
			}
		}
		return append(slices.Clone(part[1]), strings.Join(words, " ")...)
	})
}
