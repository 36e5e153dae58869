package site

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Bounds of a site's sources. They are far above what a person writes (2000
// workflows are 300 kB) and exist because HCL's parser and evaluator recurse:
// a nest of brackets would end the process with a stack overflow that no
// recover catches.
const (
	maxFileBytes = 1 << 20 // of one file
	maxSiteBytes = 8 << 20 // of all files of a directory
	maxFiles     = 256
	maxNesting   = 100  // brackets, braces, parentheses and templates inside each other
	maxPending   = 1000 // the same plus operators that one expression chains
	maxDigits    = 40   // of a number literal
)

// source is one file's content.
type source struct {
	name  string
	bytes []byte
}

// readSources reads SITE, which is a file or a directory of *.hcl files.
func readSources(path string) ([]source, string, hcl.Diagnostics) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, "", unreadable(path, err)
	}
	if !info.IsDir() {
		if !info.Mode().IsRegular() {
			return nil, "", failure("Unreadable site", nil, "%s is neither a file nor a directory.", path)
		}
		src, diags := readSource(path)
		return []source{src}, filepath.Dir(path), diags
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, "", unreadable(path, err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".hcl") && !strings.HasSuffix(e.Name(), LockSuffix) && !strings.HasPrefix(e.Name(), ".") && !e.IsDir() {
			names = append(names, filepath.Join(path, e.Name()))
		}
	}
	sort.Strings(names)
	switch {
	case len(names) == 0:
		return nil, "", failure("Empty site", nil, "The directory %s has no file that ends in .hcl.", path)
	case len(names) > maxFiles:
		return nil, "", failure("Site too large", nil, "The directory %s has %d .hcl files; the most that is read is %d.", path, len(names), maxFiles)
	}
	var (
		sources []source
		diags   hcl.Diagnostics
		total   int
	)
	for _, name := range names {
		src, more := readSource(name)
		diags = append(diags, more...)
		total += len(src.bytes)
		if total > maxSiteBytes {
			return nil, "", append(diags, failure("Site too large", nil, "The files of %s have more than %d MiB together.", path, maxSiteBytes>>20)...)
		}
		sources = append(sources, src)
	}
	return sources, path, diags
}

// readSource reads one file within its bound.
func readSource(path string) (source, hcl.Diagnostics) {
	f, err := os.Open(path)
	if err != nil {
		return source{name: path}, unreadable(path, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return source{name: path}, unreadable(path, err)
	}
	if len(b) > maxFileBytes {
		size := "more than"
		if info, err := f.Stat(); err == nil {
			size = fmt.Sprintf("%d bytes, which is more than", info.Size())
		}
		return source{name: path}, failure("Site too large", nil,
			"%s has %s the %d MiB that a file of a site may have. Split it into several files of one directory, or load large texts with file().", path, size, maxFileBytes>>20)
	}
	return source{name: path, bytes: b}, nil
}

// unreadable says why the site cannot be read.
func unreadable(path string, err error) hcl.Diagnostics {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return failure("Unreadable site", nil, "Reading %s: %v.", path, err)
}

// checkSource refuses what must not reach the parser.
func checkSource(src source) hcl.Diagnostics {
	if !utf8.Valid(src.bytes) {
		rng := invalidUTF8(src)
		return failure("Invalid UTF-8", &rng, "Byte %d of the file is not valid UTF-8. Site files are UTF-8 text; convert the file, or load other bytes with filebase64().", rng.Start.Byte)
	}
	return checkNesting(src)
}

// invalidUTF8 finds the first invalid byte.
func invalidUTF8(src source) hcl.Range {
	pos := hcl.Pos{Line: 1, Column: 1}
	for b := src.bytes; len(b) > 0; {
		r, size := utf8.DecodeRune(b)
		if r == utf8.RuneError && size == 1 {
			break
		}
		pos.Byte += size
		pos.Column++
		if r == '\n' {
			pos.Line++
			pos.Column = 1
		}
		b = b[size:]
	}
	end := pos
	end.Byte++
	end.Column++
	return hcl.Range{Filename: src.name, Start: pos, End: end}
}

// checkNesting bounds how deep the parser will recurse. The lexer does not
// recurse, so its tokens can be counted first: every open bracket is a level,
// and every operator since the last separator of its level may be one, because
// a ? b : c ? d : e …, !!!!x, a + b + c … and a[x][y] … all make deep trees.
func checkNesting(src source) hcl.Diagnostics {
	tokens, diags := hclsyntax.LexConfig(src.bytes, src.name, hcl.InitialPos)
	if diags.HasErrors() {
		// Wrong characters; the parser would say the same.
		return diags
	}
	return checkTokens(tokens)
}

// checkTokens is checkNesting of what the lexer gave.
func checkTokens(tokens hclsyntax.Tokens) hcl.Diagnostics {
	pending := []int{0} // operators per open level
	sum := 0
	clear := func() {
		sum -= pending[len(pending)-1]
		pending[len(pending)-1] = 0
	}
	braces := []bool{true} // whether a newline separates on this level
	for _, t := range tokens {
		rng := t.Range
		switch t.Type {
		case hclsyntax.TokenOBrace, hclsyntax.TokenOBrack, hclsyntax.TokenOParen, hclsyntax.TokenOQuote, hclsyntax.TokenOHeredoc,
			hclsyntax.TokenTemplateInterp, hclsyntax.TokenTemplateControl:
			pending[len(pending)-1]++
			sum++
			pending = append(pending, 0)
			braces = append(braces, t.Type == hclsyntax.TokenOBrace)
			if len(pending) > maxNesting {
				return failure("Site nested too deeply", &rng, "More than %d brackets, braces, parentheses or templates are open at this point.", maxNesting)
			}
		case hclsyntax.TokenCBrace, hclsyntax.TokenCBrack, hclsyntax.TokenCParen, hclsyntax.TokenCQuote, hclsyntax.TokenCHeredoc, hclsyntax.TokenTemplateSeqEnd:
			if len(pending) > 1 {
				clear()
				pending = pending[:len(pending)-1]
				braces = braces[:len(braces)-1]
			}
		case hclsyntax.TokenComma:
			clear()
		case hclsyntax.TokenNewline:
			if braces[len(braces)-1] {
				clear()
			}
		case hclsyntax.TokenNumberLit:
			// 1e999999999 is short to write and a gigabyte to print.
			if len(t.Bytes) > maxDigits || strings.ContainsAny(string(t.Bytes), "eE") && exponentDigits(t.Bytes) > 3 {
				return failure("Number too long", &rng, "A number has at most %d digits, and an exponent at most 3.", maxDigits)
			}
		case hclsyntax.TokenIdent, hclsyntax.TokenStringLit, hclsyntax.TokenQuotedLit, hclsyntax.TokenComment, hclsyntax.TokenEOF:
		default:
			pending[len(pending)-1]++
			sum++
		}
		if sum > maxPending {
			return failure("Site nested too deeply", &rng, "The expression at this point chains more than %d operators. Split it over several locals.", maxPending)
		}
	}
	return nil
}

// exponentDigits counts the digits after e.
func exponentDigits(lit []byte) int {
	i := strings.IndexAny(string(lit), "eE")
	return len(strings.TrimLeft(string(lit[i+1:]), "+-0"))
}
