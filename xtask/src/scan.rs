//! Reading Rust source well enough to tell code from comments and texts, and where functions end.

/// The source with comments and the insides of texts blanked out; lines and columns stay.
pub(crate) fn code_only(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let end = at + literal_or_comment(rest, at.checked_sub(1).map(|before| bytes[before]));
        if end == at {
            at += 1;
            continue;
        }
        out[at..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
        at = end;
    }
    // Only whole literals and comments were blanked, and they begin and end with ASCII.
    String::from_utf8(out).unwrap_or_default()
}

/// Length of the comment, text or character that `rest` begins with; 0 if it begins with code.
fn literal_or_comment(rest: &[u8], before: Option<u8>) -> usize {
    if rest.starts_with(b"//") {
        return rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return block_comment(rest);
    }
    let in_word = before.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    match rest.first() {
        Some(b'"') => quoted(rest, b'"'),
        Some(b'\'') => character(rest),
        Some(b'r') if !in_word || matches!(before, Some(b'b' | b'c')) => raw_text(rest),
        _ => 0,
    }
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// `'x'` or `'\n'`; a lifetime is code.
fn character(rest: &[u8]) -> usize {
    if rest.get(1) == Some(&b'\\') {
        return quoted(rest, b'\'');
    }
    let text = String::from_utf8_lossy(&rest[1..rest.len().min(8)]).into_owned();
    let width = text.chars().next().map_or(0, char::len_utf8);
    if rest.get(1 + width) == Some(&b'\'') { width + 2 } else { 0 }
}

/// `r"..."` or `r#"..."#`.
fn raw_text(rest: &[u8]) -> usize {
    let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let start = hashes + 2;
    let end = rest[start..].windows(close.len()).position(|window| window == close);
    end.map_or(rest.len(), |end| start + end + close.len())
}

/// Functions of blanked source: name, first line counted from 1, number of lines.
pub(crate) fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let starts_word = code[..at].chars().next_back().is_none_or(|c| !c.is_alphanumeric() && c != '_');
        let name: String = code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if !starts_word || name.is_empty() {
            continue;
        }
        if let Some(end) = body_end(&code[at..]) {
            let first = line_of(code, at);
            found.push((name, first, line_of(code, at + end) - first + 1));
        }
    }
    found
}

/// Number of the line, from 1, in which the byte `at` stands.
pub(crate) fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// Where the function's closing brace stands; nothing for one without a body.
fn body_end(code: &str) -> Option<usize> {
    let (mut round, mut curly) = (0i32, 0i32);
    for (at, byte) in code.bytes().enumerate() {
        match byte {
            b'(' | b'[' => round += 1,
            b')' | b']' => round -= 1,
            b'{' => curly += 1,
            b'}' => {
                curly -= 1;
                if curly == 0 {
                    return Some(at);
                }
            }
            b';' if round == 0 && curly == 0 => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_texts_are_blanked_and_code_stays() {
        let source = "let a = \"x { \\\" y\"; // to { do\nlet b = '{'; let c: &'a str = r#\"}\"}\"#; /* { /* } */ */ done('\\'')";
        let code = code_only(source);
        assert_eq!(code.len(), source.len());
        assert!(!code.contains(['{', '}']), "{code}");
        assert!(code.contains("let b") && code.contains("&'a str") && code.contains("done("), "{code}");
    }

    #[test]
    fn words_that_end_in_r_are_no_raw_texts() {
        assert_eq!(code_only("for\"x\" br\"y\" 'é' end"), "for    br          end".replace("br   ", "b   "));
    }

    #[test]
    fn functions_have_lines() {
        let source = "trait A { fn none(&self, x: [u8; 4]); }\nfn two() {\n}\nfn outer(f: fn(u8)) -> [u8; 2] {\n  if x {\n  }\n}\n";
        assert_eq!(functions(&code_only(source)), [("two".to_owned(), 2, 2), ("outer".to_owned(), 4, 4)]);
    }
}
