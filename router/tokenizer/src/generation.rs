//! How does a model want to be sampled, where a request does not say?

use serde_json::{Map, Value};

use crate::assets::{Assets, GENERATION_CONFIG, LoadError};
use crate::config::object;

/// `generation_config.json`, as far as it concerns sampling. Everything absent (or `null`) is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// `false`: the model's makers meant greedy decoding, whatever the numbers below say.
    pub do_sample: Option<bool>,
    /// Divides the logits; not negative.
    pub temperature: Option<f32>,
    /// Keeps the likeliest tokens up to this sum of probabilities; in (0, 1].
    pub top_p: Option<f32>,
    /// Keeps tokens at least this likely, relative to the likeliest; in [0, 1].
    pub min_p: Option<f32>,
    /// Keeps so many tokens; never 0, which (like -1) says in the file that there is no limit.
    pub top_k: Option<u32>,
    /// Divides the logits of tokens that were there already; positive.
    pub repetition_penalty: Option<f32>,
    /// How long an answer may be, in tokens.
    pub max_new_tokens: Option<u32>,
    /// The tokens that end an answer, in the order of the file.
    pub eos_token_ids: Vec<u32>,
}

impl GenerationConfig {
    /// Reads the file; a model without one has no wishes.
    pub fn load(assets: &Assets<'_>) -> Result<Self, LoadError> {
        let Some(bytes) = assets.generation_config else { return Ok(Self::default()) };
        let fields = Fields(object(bytes, GENERATION_CONFIG)?);
        let top_k = fields.integer("top_k", -1)?.filter(|k| *k > 0);
        let max_new_tokens = fields.integer("max_new_tokens", 0)?;
        Ok(Self {
            do_sample: fields.boolean("do_sample")?,
            temperature: fields.number("temperature", |value| value >= 0.0)?,
            top_p: fields.number("top_p", |value| value > 0.0 && value <= 1.0)?,
            min_p: fields.number("min_p", |value| (0.0..=1.0).contains(&value))?,
            top_k: top_k.map(|k| u32::try_from(k).unwrap_or(u32::MAX)),
            repetition_penalty: fields.number("repetition_penalty", |value| value > 0.0)?,
            max_new_tokens: max_new_tokens.map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
            eos_token_ids: fields.token_ids("eos_token_id")?,
        })
    }
}

struct Fields(Map<String, Value>);

impl Fields {
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn boolean(&self, name: &str) -> Result<Option<bool>, LoadError> {
        let read = |value: &Value| value.as_bool().ok_or_else(|| invalid(name, value));
        self.get(name).map(read).transpose()
    }

    fn number(&self, name: &str, allowed: fn(f32) -> bool) -> Result<Option<f32>, LoadError> {
        let read = |value: &Value| {
            // Sampling is f32 arithmetic (FORMATS.md), so the nearest f32 is what counts.
            let number = value.as_f64().map(|number| number as f32);
            let number = number.filter(|number| number.is_finite() && allowed(*number));
            number.ok_or_else(|| invalid(name, value))
        };
        self.get(name).map(read).transpose()
    }

    fn integer(&self, name: &str, least: i64) -> Result<Option<i64>, LoadError> {
        let read = |value: &Value| {
            value.as_i64().filter(|number| *number >= least).ok_or_else(|| invalid(name, value))
        };
        self.get(name).map(read).transpose()
    }

    fn token_ids(&self, name: &str) -> Result<Vec<u32>, LoadError> {
        let ids = match self.get(name) {
            None => return Ok(Vec::new()),
            Some(Value::Array(ids)) => ids.as_slice(),
            Some(id) => std::slice::from_ref(id),
        };
        let read = |id: &Value| {
            let number = id.as_u64().and_then(|number| u32::try_from(number).ok());
            number.ok_or_else(|| invalid(name, id))
        };
        ids.iter().map(read).collect()
    }
}

fn invalid(name: &str, value: &Value) -> LoadError {
    LoadError::invalid(GENERATION_CONFIG, format!("{name} cannot be {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(json: &str) -> Result<GenerationConfig, LoadError> {
        let assets = Assets { generation_config: Some(json.as_bytes()), ..Assets::default() };
        GenerationConfig::load(&assets)
    }

    #[test]
    fn the_config_of_glm4_is_read() {
        let config = load(
            r#"{"eos_token_id": [151329, 151336, 151338], "pad_token_id": 151329, "do_sample": true,
                "temperature": 0.8, "max_length": 128000, "top_p": 0.8, "transformers_version": "4.44.0"}"#,
        );
        let expected = GenerationConfig {
            do_sample: Some(true),
            temperature: Some(0.8),
            top_p: Some(0.8),
            eos_token_ids: vec![151_329, 151_336, 151_338],
            ..GenerationConfig::default()
        };
        assert_eq!(config.unwrap(), expected);
    }

    #[test]
    fn a_single_eos_and_nulls_and_disabled_limits_are_read() {
        let config = load(r#"{"eos_token_id": 2, "temperature": null, "top_k": -1}"#).unwrap();
        assert_eq!(config, GenerationConfig { eos_token_ids: vec![2], ..Default::default() });
        assert_eq!(load(r#"{"top_k": 50}"#).unwrap().top_k, Some(50));
        assert_eq!(
            GenerationConfig::load(&Assets::default()).unwrap(),
            GenerationConfig::default()
        );
    }

    #[test]
    fn impossible_values_are_named_with_their_file() {
        for (json, field) in [
            (r#"{"temperature": -1}"#, "temperature"),
            (r#"{"temperature": 1e300}"#, "temperature"),
            (r#"{"top_p": 0}"#, "top_p"),
            (r#"{"top_k": "many"}"#, "top_k"),
            (r#"{"eos_token_id": [1, -2]}"#, "eos_token_id"),
            (r#"{"do_sample": 1}"#, "do_sample"),
        ] {
            let message = load(json).unwrap_err().to_string();
            assert!(
                message.starts_with(&format!("generation_config.json: {field} cannot be ")),
                "{message}"
            );
        }
        assert!(load("[1").is_err());
    }
}
