//! What does `name:key=value,key=value` on a command line say?

use crate::plan::PlanError;

/// The part after the colon, taken apart key by key.
pub(crate) struct Fields<'a> {
    whole: &'a str,
    usage: &'static str,
    values: Vec<(&'a str, f64)>,
}

/// Splits `name:rest`; `rest` is empty where there is no colon.
pub(crate) fn split(text: &str) -> (&str, &str) {
    let (name, rest) = text.split_once(':').unwrap_or((text, ""));
    (name.trim(), rest.trim())
}

/// The sentence for whoever wrote `text`.
pub(crate) fn refuse(text: &str, reason: &str, usage: &str) -> PlanError {
    PlanError::Impossible(format!("`{text}`: {reason}; write {usage}"))
}

impl<'a> Fields<'a> {
    /// Reads `rest` of `whole`. `usage` says what may be written and ends every error.
    pub(crate) fn parse(
        whole: &'a str,
        rest: &'a str,
        usage: &'static str,
    ) -> Result<Self, PlanError> {
        let mut values: Vec<(&str, f64)> = Vec::new();
        for field in rest.split(',').map(str::trim).filter(|field| !field.is_empty()) {
            let Some((key, value)) = field.split_once('=') else {
                return Err(refuse(whole, &format!("`{field}` has no `=`"), usage));
            };
            let key = key.trim();
            let value = number(value)
                .ok_or_else(|| refuse(whole, &format!("`{field}` names no number"), usage))?;
            if values.iter().any(|(other, _)| *other == key) {
                return Err(refuse(whole, &format!("`{key}` stands there twice"), usage));
            }
            values.push((key, value));
        }
        Ok(Self { whole, usage, values })
    }

    /// A value that may be missing.
    pub(crate) fn optional(&mut self, key: &str) -> Option<f64> {
        let at = self.values.iter().position(|(other, _)| *other == key)?;
        Some(self.values.swap_remove(at).1)
    }

    /// A value that must be there.
    pub(crate) fn required(&mut self, key: &str) -> Result<f64, PlanError> {
        self.optional(key).ok_or_else(|| self.error(&format!("`{key}=` is missing")))
    }

    /// Fails where a key was written that nobody asked for.
    pub(crate) fn finish(self) -> Result<(), PlanError> {
        match self.values.first() {
            None => Ok(()),
            Some((key, _)) => Err(self.error(&format!("`{key}` means nothing here"))),
        }
    }

    /// The sentence for whoever wrote it.
    pub(crate) fn error(&self, reason: &str) -> PlanError {
        refuse(self.whole, reason, self.usage)
    }
}

/// A number that can be counted with; units such as `60s` are not numbers.
pub(crate) fn number(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|value: &f64| value.is_finite())
}
