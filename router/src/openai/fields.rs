//! Which fields does a body have, and is each of them known?
//!
//! A field that is not understood is refused: a request whose `temprature` is silently ignored has a wrong answer and
//! nobody knows. So a reader takes each field by name, says which it lets pass, and what is left over is an error.

use serde_json::{Map, Value};

use crate::error::{RequestError, out_of_range, short};

/// Names that differ more than this are not meant.
const SIMILAR: f64 = 0.75;

/// The fields of a JSON object that are not taken yet.
#[derive(Debug)]
pub(super) struct Fields {
    /// Stands before each name in errors: `messages[0].`.
    prefix: String,
    left: Map<String, Value>,
    known: Vec<&'static str>,
}

impl Fields {
    /// Reads a body.
    pub(super) fn read(body: &[u8]) -> Result<Self, RequestError> {
        let text = std::str::from_utf8(body).map_err(|error| {
            let at = error.valid_up_to();
            RequestError::Malformed(format!("the body is not UTF-8: byte {at} is wrong"))
        })?;
        let value = serde_json::from_str(text)
            .map_err(|error| RequestError::Malformed(format!("the body is not JSON: {error}")))?;
        match value {
            Value::Object(left) => Ok(Self::of(String::new(), left)),
            other => {
                let message = format!("the body is {}, send a JSON object", kind(&other));
                Err(RequestError::Malformed(message))
            }
        }
    }

    /// Reads an object inside a body.
    pub(super) fn of(prefix: String, left: Map<String, Value>) -> Self {
        Self { prefix, left, known: Vec::new() }
    }

    /// Returns the name of a field as errors spell it.
    pub(super) fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Takes a field; null is as if it were not there.
    pub(super) fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.left.remove(name).filter(|value| !value.is_null())
    }

    /// Tells whether a field is there and not null.
    pub(super) fn has(&self, name: &str) -> bool {
        self.left.get(name).is_some_and(|value| !value.is_null())
    }

    /// Lets fields pass that do not change the answer.
    pub(super) fn let_pass(&mut self, names: &[&'static str]) {
        for name in names {
            self.take(name);
        }
    }

    /// Refuses a field unless its value is one that changes nothing.
    pub(super) fn refuse(
        &mut self,
        name: &'static str,
        is_harmless: impl FnOnce(&Value) -> bool,
        why: &str,
    ) -> Result<(), RequestError> {
        match self.take(name) {
            Some(value) if !is_harmless(&value) => {
                Err(RequestError::unsupported(self.path(name), why))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn wrong(&self, name: &str, wanted: &str, got: &Value) -> RequestError {
        let path = self.path(name);
        let message = format!("{path} is {}, use {wanted}", kind(got));
        RequestError::parameter(path, message)
    }

    pub(super) fn string(&mut self, name: &'static str) -> Result<Option<String>, RequestError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(name, "a string", &other)),
        }
    }

    pub(super) fn required_string(&mut self, name: &'static str) -> Result<String, RequestError> {
        self.string(name)?.ok_or_else(|| self.missing(name))
    }

    pub(super) fn missing(&self, name: &str) -> RequestError {
        let path = self.path(name);
        let message = format!("{path} is missing, it is required");
        RequestError::parameter(path, message)
    }

    pub(super) fn flag(&mut self, name: &'static str) -> Result<Option<bool>, RequestError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(self.wrong(name, "true or false", &other)),
        }
    }

    pub(super) fn float(&mut self, name: &'static str) -> Result<Option<f32>, RequestError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Number(number)) => Ok(number.as_f64().map(|number| number as f32)),
            Some(other) => Err(self.wrong(name, "a number", &other)),
        }
    }

    /// Takes a whole number of at least 0.
    pub(super) fn whole(&mut self, name: &'static str) -> Result<Option<u32>, RequestError> {
        self.whole_in(name, 0, u32::MAX)
    }

    /// Takes a whole number within bounds.
    pub(super) fn whole_in(
        &mut self,
        name: &'static str,
        low: u32,
        high: u32,
    ) -> Result<Option<u32>, RequestError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let whole = value.as_u64().and_then(|whole| u32::try_from(whole).ok());
        match whole.filter(|whole| (low..=high).contains(whole)) {
            Some(whole) => Ok(Some(whole)),
            None => {
                let path = self.path(name);
                let message = out_of_range(&path, &value, low, high);
                Err(RequestError::parameter(path, message))
            }
        }
    }

    pub(super) fn object(
        &mut self,
        name: &'static str,
    ) -> Result<Option<Map<String, Value>>, RequestError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(other) => Err(self.wrong(name, "an object", &other)),
        }
    }

    /// Takes a list of token ids.
    pub(super) fn token_ids(
        &mut self,
        name: &'static str,
    ) -> Result<Option<Vec<u32>>, RequestError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(token_ids(&self.path(name), &list)?)),
            Some(other) => Err(self.wrong(name, "a list of token ids", &other)),
        }
    }

    /// Takes the field as a list; a single value is a list of one.
    pub(super) fn strings(&mut self, name: &'static str) -> Result<Vec<String>, RequestError> {
        let list = match self.take(name) {
            None => return Ok(Vec::new()),
            Some(Value::Array(list)) => list,
            Some(single) => vec![single],
        };
        list.into_iter()
            .map(|value| match value {
                Value::String(text) => Ok(text),
                other => Err(self.wrong(name, "a string or a list of strings", &other)),
            })
            .collect()
    }

    /// Refuses what nobody took, with the known name that is nearest.
    pub(super) fn finish(self) -> Result<(), RequestError> {
        let Some(name) = self.left.keys().next() else { return Ok(()) };
        // Cut before it is compared: that takes time in proportion to the product of the lengths.
        let name = short(name);
        let near = |known: &&'static str| (strsim::jaro_winkler(known, &name), *known);
        let nearest = self.known.iter().map(near).max_by(|a, b| a.0.total_cmp(&b.0));
        let hint = match nearest {
            Some((likeness, known)) if likeness >= SIMILAR => {
                format!("did you mean {}?", self.path(known))
            }
            Some(_) | None => "leave it out".to_owned(),
        };
        let param = self.path(&name);
        let message = format!("unknown parameter {param}: {hint}");
        Err(RequestError::UnknownParameter { param, message })
    }
}

/// Reads token ids.
pub(super) fn token_ids(path: &str, list: &[Value]) -> Result<Vec<u32>, RequestError> {
    let id = |value: &Value| {
        value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
            let message =
                format!("{path} has {}, token ids are whole numbers from 0 on", short(value));
            RequestError::parameter(path, message)
        })
    };
    list.iter().map(id).collect()
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(json: &str) -> Fields {
        Fields::read(json.as_bytes()).unwrap()
    }

    #[test]
    fn an_unknown_field_is_refused_with_the_nearest_known_one() {
        let mut body = fields(r#"{"temprature": 1}"#);
        body.float("temperature").unwrap();
        body.float("top_p").unwrap();
        let error = body.finish().unwrap_err();
        assert_eq!(error.to_string(), "unknown parameter temprature: did you mean temperature?");
        assert_eq!(error.param(), Some("temprature"));

        let mut body = fields(r#"{"zzz": 1}"#);
        body.float("temperature").unwrap();
        assert_eq!(body.finish().unwrap_err().to_string(), "unknown parameter zzz: leave it out");
    }

    #[test]
    fn null_is_absent_and_a_wrong_kind_is_named() {
        let mut body = fields(r#"{"n": null, "seed": "x", "stop": ["a", 1]}"#);
        assert_eq!(body.whole("n"), Ok(None));
        assert_eq!(body.float("seed").unwrap_err().to_string(), "seed is a string, use a number");
        let error = body.strings("stop").unwrap_err().to_string();
        assert_eq!(error, "stop is a number, use a string or a list of strings");
        assert_eq!(body.finish(), Ok(()));
    }

    #[test]
    fn bodies_that_are_none_say_why() {
        let why = |body: &[u8]| Fields::read(body).unwrap_err().to_string();
        assert_eq!(why(b"[]"), "the body is a list, send a JSON object");
        assert!(why(b"{\"a\": \"\xc3\x28\"}").starts_with("the body is not UTF-8: byte 7"));
        assert!(why(b"{").starts_with("the body is not JSON: "));
        assert!(why(&[b'['; 100_000]).starts_with("the body is not JSON: "));
        assert!(why(br#"{"a": "\ud800"}"#).starts_with("the body is not JSON: "));
    }

    #[test]
    fn whole_numbers_are_whole() {
        let mut body = fields(r#"{"a": 1.5, "b": -1, "c": 4294967296, "d": 7}"#);
        for name in ["a", "b", "c"] {
            assert!(body.whole(name).is_err(), "{name}");
        }
        assert_eq!(body.whole("d"), Ok(Some(7)));
    }
}
