//! Reading Markdown: fenced blocks, links, headings.

/// A fenced block.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// What stands behind the opening fence, such as `sh`.
    pub(crate) info: String,
    /// Line of the opening fence, from 1.
    pub(crate) line: usize,
    /// Line behind the closing fence, from 1.
    pub(crate) end: usize,
    /// The lines in between.
    pub(crate) text: String,
}

/// The fenced blocks of a document.
pub(crate) fn blocks(document: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut open: Option<(&str, Block)> = None;
    for (number, line) in document.lines().enumerate() {
        let trimmed = line.trim_start();
        match &mut open {
            Some((fence, block)) if trimmed.trim_end() == *fence => {
                block.end = number + 2;
                found.extend(open.take().map(|(_, block)| block));
            }
            Some((_, block)) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            None if trimmed.starts_with("```") => {
                let info = trimmed.trim_start_matches('`');
                let fence = &trimmed[..trimmed.len() - info.len()];
                let block = Block { info: info.trim().to_owned(), line: number + 1, end: 0, text: String::new() };
                open = Some((fence, block));
            }
            None => {}
        }
    }
    found
}

/// Links in a document with their lines: targets of `[text](target)`, outside of code.
pub(crate) fn links(document: &str) -> Vec<(usize, String)> {
    let fenced: Vec<_> = blocks(document).iter().map(|block| block.line..block.end).collect();
    let mut found = Vec::new();
    for (number, line) in document.lines().enumerate() {
        if fenced.iter().any(|lines| lines.contains(&(number + 1))) {
            continue;
        }
        // Every second part stands between backquotes.
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("``");
        for (at, _) in prose.match_indices("](") {
            let target: String = prose[at + 2..].chars().take_while(|c| !matches!(c, ')' | ' ')).collect();
            found.push((number + 1, target));
        }
    }
    found
}

/// What `#fragments` mean in a document: its headings, as GitHub writes them.
pub(crate) fn anchors(document: &str) -> Vec<String> {
    let headings = document.lines().filter(|line| line.starts_with('#'));
    let slug = |heading: &str| {
        let text = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(slug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "# One: two\n[a](b.md#x) and `[no](no)`\n```sh\nls [x](y)\n```\n```text\nout\n```\n";

    #[test]
    fn blocks_know_their_lines() {
        let blocks = blocks(DOCUMENT);
        assert_eq!(blocks[0], Block { info: "sh".into(), line: 3, end: 6, text: "ls [x](y)\n".into() });
        assert_eq!((blocks[1].info.as_str(), blocks[1].text.as_str()), ("text", "out\n"));
    }

    #[test]
    fn links_in_code_are_none() {
        assert_eq!(links(DOCUMENT), [(2, "b.md#x".to_owned())]);
        assert_eq!(anchors(DOCUMENT), ["one-two"]);
    }
}
