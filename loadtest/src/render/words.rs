//! How is a number written for a person?

/// A latency with three digits that count: `0.43 ms`, `52.1 ms`, `1.55 s`, `83.2 s`.
pub(super) fn ms(ms: f64) -> String {
    // What three digits would round up to a second is written as one.
    if ms < 999.5 { format!("{} ms", three(ms)) } else { format!("{} s", three(ms / 1000.0)) }
}

/// Three digits that count, and no more than two behind the point; thousands are grouped.
pub(super) fn three(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 {
        "0".to_owned()
    } else if size < 9.995 {
        format!("{value:.2}")
    } else if size < 99.95 {
        format!("{value:.1}")
    } else if size < 1e15 {
        let whole = count(size.round() as u64);
        if value < 0.0 { format!("-{whole}") } else { whole }
    } else {
        format!("{value:e}")
    }
}

/// A number that a person chose, without zeros at its end: `8`, `2.5`, `1,200`.
pub(super) fn brief(value: f64) -> String {
    if value >= 1000.0 {
        return three(value);
    }
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A whole number with grouped thousands.
pub(super) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A share of 0 to 1 as `98.7 %`; one that is not quite all or nothing is never written as if it were.
pub(super) fn share(share: f64) -> String {
    let percent = share * 100.0;
    if percent > 99.95 && percent < 100.0 {
        "> 99.9 %".to_owned()
    } else if percent > 0.0 && percent < 0.05 {
        "< 0.1 %".to_owned()
    } else {
        format!("{percent:.1} %")
    }
}

/// Bytes as `12.3 MiB`.
pub(super) fn bytes(bytes: u64) -> String {
    let mib = bytes as f64 / (1024.0 * 1024.0);
    if mib < 1000.0 {
        format!("{} MiB", three(mib))
    } else {
        format!("{} GiB", three(mib / 1024.0))
    }
}

/// A number of things: `1 request`, `2 requests`.
pub(super) fn plural(n: usize, thing: &str) -> String {
    format!("{n} {thing}{}", if n == 1 { "" } else { "s" })
}

/// `text` on one line, without control characters (which could command a terminal) and the marks that turn the direction of
/// text, cut to `width` characters.
pub(super) fn line(text: &str, width: usize) -> String {
    let safe = |c: char| if c.is_whitespace() { ' ' } else { c };
    let mut kept = text.chars().map(safe).filter(|c| !c.is_control() && !unfit(*c));
    let mut line: String = kept.by_ref().take(width).collect();
    if kept.next().is_some() {
        line.pop();
        line.push('…');
    }
    line
}

/// What turns the direction of text, and the two that XML does not allow.
fn unfit(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        || matches!(c, '\u{fffe}' | '\u{ffff}')
}

/// `text` for HTML and XML, in content and in quoted attributes.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Neither HTML nor XML has them, not even escaped.
            c if c.is_control() && !c.is_whitespace() || unfit(c) => {}
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_their_unit() {
        let written: Vec<_> =
            [0.0, 0.434, 9.996, 52.14, 150.4, 999.4, 999.6, 1550.0, 83_200.0, 5e6]
                .into_iter()
                .map(ms)
                .collect();
        let expected = [
            "0 ms", "0.43 ms", "10.0 ms", "52.1 ms", "150 ms", "999 ms", "1.00 s", "1.55 s",
            "83.2 s", "5,000 s",
        ];
        assert_eq!(written, expected);
        assert_eq!([8.0, 2.5, 0.0, 30.0, 1200.0].map(brief), ["8", "2.5", "0", "30", "1,200"]);
        assert_eq!(
            (count(0), count(999), count(1_234_567)),
            ("0".into(), "999".into(), "1,234,567".into())
        );
    }

    #[test]
    fn a_share_is_never_rounded_to_all_or_nothing() {
        assert_eq!(
            [0.0, 0.0001, 0.5, 0.9999, 1.0].map(share),
            ["0.0 %", "< 0.1 %", "50.0 %", "> 99.9 %", "100.0 %"]
        );
    }

    #[test]
    fn hostile_words_cannot_command_a_terminal_or_a_page() {
        assert_eq!(line("a\x1b[2J\nb\u{202e}c\u{ffff}", 80), "a[2J bc");
        assert_eq!(line("abcdef", 4), "abc…");
        assert_eq!(line("abcd", 4), "abcd");
        assert_eq!(escape("<a href='x'>\"&\0"), "&lt;a href=&#39;x&#39;&gt;&quot;&amp;");
    }
}
