//! Values of a `config.json` by key, each with the sentence for when it is not what it must be.

use serde_json::{Map, Value};

use super::ConfigError;

/// Sizes above this are taken for nonsense, so that products of two or three stay far below 2⁶⁴.
const SIZE_MAX: u64 = 1 << 24;

/// A JSON object that is asked for values. Null means absent, as Hugging Face writes it.
pub(super) struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    pub(super) fn of(json: &'a Value) -> Result<Self, ConfigError> {
        json.as_object()
            .map(Self)
            .ok_or_else(|| ConfigError::Json("the outermost value is of another kind".into()))
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn object(&self, key: &'static str) -> Result<Option<Self>, ConfigError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self(map))),
            Some(value) => Err(unfit(key, value, "an object")),
        }
    }

    pub(super) fn text(&self, key: &'static str) -> Result<Option<&'a str>, ConfigError> {
        self.get(key)
            .map(|value| value.as_str().ok_or_else(|| unfit(key, value, "text")))
            .transpose()
    }

    pub(super) fn flag(&self, key: &'static str) -> Result<Option<bool>, ConfigError> {
        self.get(key)
            .map(|value| value.as_bool().ok_or_else(|| unfit(key, value, "true or false")))
            .transpose()
    }

    pub(super) fn size_if_any(&self, key: &'static str) -> Result<Option<usize>, ConfigError> {
        let size = |value: &Value| match value.as_u64() {
            Some(n @ 1..=SIZE_MAX) => Ok(n as usize),
            _ => Err(unfit(key, value, "a whole number from 1 to 16777216")),
        };
        self.get(key).map(size).transpose()
    }

    pub(super) fn size(&self, key: &'static str) -> Result<usize, ConfigError> {
        self.size_if_any(key)?.ok_or(ConfigError::Missing { key })
    }

    pub(super) fn positive(&self, key: &'static str) -> Result<Option<f64>, ConfigError> {
        let number = |value: &Value| match value.as_f64() {
            Some(x) if x > 0.0 && x.is_finite() => Ok(x),
            _ => Err(unfit(key, value, "a positive number")),
        };
        self.get(key).map(number).transpose()
    }

    pub(super) fn ids(&self, key: &'static str) -> Result<Vec<u32>, ConfigError> {
        let id = |value: &Value| {
            let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
            id.ok_or_else(|| unfit(key, value, "a token id or a list of them"))
        };
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(ids)) => ids.iter().map(id).collect(),
            Some(one) => Ok(vec![id(one)?]),
        }
    }

    /// Refuses a switch that is set to something that is not computed here.
    pub(super) fn refuse_unless(
        &self,
        key: &'static str,
        supported: bool,
        what: &str,
    ) -> Result<(), ConfigError> {
        match self.flag(key)? {
            Some(set) if set != supported => {
                Err(ConfigError::Unsupported(format!("{what} ({key} = {set} in config.json)")))
            }
            _ => Ok(()),
        }
    }
}

pub(super) fn unfit(key: &'static str, value: &Value, expected: &'static str) -> ConfigError {
    let value = value.to_string().chars().take(60).collect();
    ConfigError::Value { key, value, expected }
}
