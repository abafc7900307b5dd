//! How do Python's `str` and `json.dumps` write a value?

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

/// How deeply values may be nested. JSON from a client cannot be deeper than its parser allows, which is 128.
const DEPTH_MAX: usize = 256;

/// Returns what Python prints for a float, or nothing for any other value.
pub(super) fn float(value: &Value) -> Option<String> {
    if value.kind() != ValueKind::Number || value.is_integer() {
        return None;
    }
    let number = f64::try_from(value.clone()).ok()?;
    Some(if number.is_nan() {
        "nan".to_owned()
    } else if number.is_infinite() {
        if number > 0.0 { "inf" } else { "-inf" }.to_owned()
    } else {
        repr(number)
    })
}

/// `repr` of a finite float: the shortest digits that read back as it, with an exponent from 1e16 on and below 1e-4.
fn repr(number: f64) -> String {
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').expect("LowerExp writes an e");
    let exponent: i32 = exponent.parse().expect("LowerExp writes a number after it");
    if (-4..16).contains(&exponent) {
        let plain = number.to_string();
        if plain.contains('.') { plain } else { format!("{plain}.0") }
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{digits}e{sign}{:02}", exponent.abs())
    }
}

/// The filter `tojson` as Hugging Face defines it: `json.dumps` without HTML escapes, and with non-ASCII text as it is.
pub(super) fn tojson(
    state: &State<'_, '_>,
    value: &Value,
    ensure_ascii: Option<bool>,
    options: Kwargs,
) -> Result<String, Error> {
    let ensure_ascii = options.get::<Option<bool>>("ensure_ascii")?.or(ensure_ascii);
    let indent = indent(options.get("indent")?)?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let sort_keys = options.get::<Option<bool>>("sort_keys")?;
    options.assert_all_used()?;
    let (item, key) = match separators.as_deref() {
        None if indent.is_some() => (",", ": "),
        None => (", ", ": "),
        Some([item, key]) => (item.as_str(), key.as_str()),
        Some(_) => return Err(invalid("separators must be two strings")),
    };
    let mut writer = Writer {
        state,
        json: String::new(),
        paid_bytes: 0,
        ensure_ascii: ensure_ascii.unwrap_or(false),
        sort_keys: sort_keys.unwrap_or(false),
        indent,
        item,
        key,
    };
    writer.value(value, 0)?;
    Ok(writer.json)
}

/// `indent` is a number of spaces or the text of one step.
fn indent(indent: Option<Value>) -> Result<Option<String>, Error> {
    let Some(indent) = indent.filter(|indent| !indent.is_none()) else { return Ok(None) };
    if let Some(text) = indent.as_str() {
        return Ok(Some(text.to_owned()));
    }
    let spaces = i64::try_from(indent)?;
    let spaces = usize::try_from(spaces.clamp(0, 64)).expect("it is 0 to 64");
    Ok(Some(" ".repeat(spaces)))
}

fn invalid(detail: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, detail)
}

/// Hugging Face's own block, `{% generation %}…{% endgeneration %}`, only marks what an assistant said, for training.
/// Here it becomes an `if` that is always true, so that whitespace control stays what it was.
pub(super) fn without_generation_blocks(source: &str) -> String {
    let mut plain = String::with_capacity(source.len());
    for (position, part) in source.split("{%").enumerate() {
        if position > 0 {
            plain.push_str("{%");
        }
        let start = part.len() - part.trim_start_matches(['-', '+']).trim_start().len();
        let (before, tag) = part.split_at(start);
        let replaced = [("generation", "if true"), ("endgeneration", "endif")]
            .into_iter()
            .find_map(|(name, instead)| {
                let after = tag.strip_prefix(name)?;
                let ends = after.trim_start().trim_start_matches(['-', '+']).starts_with("%}");
                ends.then_some((instead, after))
            });
        plain.push_str(if position > 0 && replaced.is_some() { before } else { part });
        if let Some((instead, after)) = replaced.filter(|_| position > 0) {
            plain.push_str(instead);
            plain.push_str(after);
        }
    }
    plain
}

struct Writer<'a> {
    state: &'a State<'a, 'a>,
    json: String,
    paid_bytes: usize,
    ensure_ascii: bool,
    sort_keys: bool,
    indent: Option<String>,
    item: &'a str,
    key: &'a str,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(invalid(format!("tojson: nested deeper than {DEPTH_MAX}")));
        }
        self.pay()?;
        match value.kind() {
            ValueKind::None => self.json.push_str("null"),
            ValueKind::Bool => self.json.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.number(value),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => self.list(value, depth)?,
            ValueKind::Map => self.object(value, depth)?,
            kind @ (ValueKind::Undefined
            | ValueKind::Bytes
            | ValueKind::Plain
            | ValueKind::Invalid) => return Err(unserializable(kind)),
            kind => return Err(unserializable(kind)),
        }
        Ok(())
    }

    /// Charges the template for what was written since the last time: nested indentation can outgrow its input.
    fn pay(&mut self) -> Result<(), Error> {
        let units = (self.json.len() - self.paid_bytes) / 64;
        self.paid_bytes += units * 64;
        self.state.consume_fuel(1 + units as u64)
    }

    fn number(&mut self, value: &Value) {
        let text = match float(value).as_deref() {
            Some("nan") => "NaN".to_owned(),
            Some("inf") => "Infinity".to_owned(),
            Some("-inf") => "-Infinity".to_owned(),
            Some(text) => text.to_owned(),
            None => value.to_string(),
        };
        self.json.push_str(&text);
    }

    fn list(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let mut empty = true;
        self.json.push('[');
        for item in value.try_iter()? {
            self.separate(!empty, depth + 1);
            empty = false;
            self.value(&item, depth + 1)?;
        }
        self.close(']', empty, depth);
        Ok(())
    }

    fn object(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let mut keys: Vec<Value> = value.try_iter()?.collect();
        if self.sort_keys {
            keys.sort();
        }
        self.json.push('{');
        for (position, key) in keys.iter().enumerate() {
            self.separate(position > 0, depth + 1);
            self.name(key)?;
            self.json.push_str(self.key);
            self.value(&value.get_item(key)?, depth + 1)?;
        }
        self.close('}', keys.is_empty(), depth);
        Ok(())
    }

    fn name(&mut self, key: &Value) -> Result<(), Error> {
        match key.kind() {
            ValueKind::String => self.string(key.as_str().unwrap_or_default()),
            ValueKind::None | ValueKind::Bool | ValueKind::Number => {
                self.json.push('"');
                self.value(key, 0)?;
                self.json.push('"');
            }
            kind => return Err(unserializable(kind)),
        }
        Ok(())
    }

    fn separate(&mut self, follows: bool, depth: usize) {
        if follows {
            self.json.push_str(self.item);
        }
        self.line(depth);
    }

    fn close(&mut self, bracket: char, empty: bool, depth: usize) {
        if !empty {
            self.line(depth);
        }
        self.json.push(bracket);
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.json.push('\n');
            for _ in 0..depth {
                self.json.push_str(indent);
            }
        }
    }

    fn string(&mut self, text: &str) {
        self.json.push('"');
        for character in text.chars() {
            match character {
                '"' => self.json.push_str("\\\""),
                '\\' => self.json.push_str("\\\\"),
                '\n' => self.json.push_str("\\n"),
                '\r' => self.json.push_str("\\r"),
                '\t' => self.json.push_str("\\t"),
                '\u{8}' => self.json.push_str("\\b"),
                '\u{c}' => self.json.push_str("\\f"),
                '\0'..='\u{1f}' => self.escape(character),
                // Not planes 15 and 16: those are the guard's marks, which must arrive as they are.
                '\u{7f}'..='\u{e_ffff}' if self.ensure_ascii => self.escape(character),
                _ => self.json.push(character),
            }
        }
        self.json.push('"');
    }

    fn escape(&mut self, character: char) {
        for unit in character.encode_utf16(&mut [0; 2]) {
            self.json.push_str(&format!("\\u{unit:04x}"));
        }
    }
}

fn unserializable(kind: ValueKind) -> Error {
    invalid(format!("tojson: a value of kind {kind} is not JSON serializable"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_blocks_become_conditions_with_their_whitespace_control() {
        for (source, plain) in [
            ("a{%- generation %}b{% endgeneration -%}c", "a{%- if true %}b{% endif -%}c"),
            ("{%generation%}{{ x }}{%- endgeneration%}", "{%if true%}{{ x }}{%- endif%}"),
            (
                "generation %}{% if generation %}{% generations %}",
                "generation %}{% if generation %}{% generations %}",
            ),
            ("", ""),
        ] {
            assert_eq!(without_generation_blocks(source), plain);
        }
    }

    #[test]
    fn floats_are_written_as_python_writes_them() {
        let cases = [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (-2.5, "-2.5"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.25e-7, "1.25e-07"),
            (-0.0, "-0.0"),
            (123_456_789.125, "123456789.125"),
        ];
        for (number, text) in cases {
            assert_eq!(repr(number), text);
        }
    }
}
