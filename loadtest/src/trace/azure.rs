//! Azure: times and lengths, one request a line; nothing is known of what prompts share.

use super::{
    Trace, Units,
    lines::{Clock, Lines},
    mooncake::alone,
};
use crate::{
    plan::{Piece, Prompt},
    workload::seed,
};

/// Where the columns stand.
#[derive(Clone, Copy)]
struct Columns {
    time: usize,
    input: usize,
    output: usize,
}

pub(super) fn sessions(trace: &Trace, lines: Lines) -> Units {
    let run_seed = trace.seed;
    let mut clock = Clock::default();
    let mut columns = None;
    let mut number = 0;
    Box::new(lines.each(move |line| {
        let Some(line) = line else { return Ok(None) };
        let Some(columns) = columns else {
            columns = Some(head(line)?);
            return Ok(None);
        };
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let field = |at: usize, name: &str| {
            fields
                .get(at)
                .copied()
                .ok_or_else(|| format!("`{name}` is missing: {} columns only", fields.len()))
        };
        let count = |at, name: &str| -> Result<u32, String> {
            let text = field(at, name)?;
            text.parse()
                .map_err(|_| format!("`{name}` is `{text}`; a number of tokens must stand there"))
        };
        let time = field(columns.time, "TIMESTAMP")?;
        let nanos = nanos(time).ok_or_else(|| {
            format!(
                "`TIMESTAMP` is `{time}`; a time such as `2023-11-16 18:17:03.97` must stand there"
            )
        })?;
        let start = clock.since_first(nanos)?;
        let name = seed::name(&[run_seed, seed::TURN, number]);
        number += 1;
        let tokens = count(columns.input, "ContextTokens")?.max(1);
        let prompt = Prompt::Whole(vec![Piece { name, tokens }]);
        Ok(Some(vec![alone(start, prompt, count(columns.output, "GeneratedTokens")?)]))
    }))
}

fn head(line: &str) -> Result<Columns, String> {
    let line = line.trim_start_matches('\u{feff}');
    let at = |name: &str| {
        line.split(',')
            .position(|column| column.trim().eq_ignore_ascii_case(name))
            .ok_or_else(|| format!("the head names no `{name}`; `TIMESTAMP,ContextTokens,GeneratedTokens` must stand there"))
    };
    Ok(Columns {
        time: at("TIMESTAMP")?,
        input: at("ContextTokens")?,
        output: at("GeneratedTokens")?,
    })
}

/// Nanoseconds since 1970 of `2023-11-16 18:17:03.9799600`, with or without `+00:00` or `Z`.
fn nanos(text: &str) -> Option<i64> {
    let text = text.trim_end_matches("+00:00").trim_end_matches('Z');
    let (date, time) = text.split_once([' ', 'T'])?;
    let [year, month, day] = numbers(date, '-')?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    let [hour, minute, second] = numbers(time, ':')?;
    let possible = (1970..2200).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second);
    if !possible || fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let fraction: i64 = format!("{fraction:0<9}").parse().ok()?;
    let seconds = ((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second;
    Some(seconds * 1_000_000_000 + fraction)
}

fn numbers(text: &str, between: char) -> Option<[i64; 3]> {
    let parts: Option<Vec<i64>> = text.split(between).map(|part| part.parse().ok()).collect();
    parts?.try_into().ok()
}

/// Days since 1970 in the Gregorian calendar. Years begin in March, so that the leap day is a year's last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_nanoseconds_since_1970() {
        let second = 1_000_000_000;
        assert_eq!(nanos("1970-01-01 00:00:00"), Some(0));
        assert_eq!(
            nanos("2023-11-16 18:17:03.9799600"),
            Some(1_700_158_623 * second + 979_960_000)
        );
        assert_eq!(nanos("2024-02-29T23:59:59.5Z"), Some(1_709_251_199 * second + second / 2));
        assert_eq!(nanos("2024-03-01 00:00:00+00:00"), Some(1_709_251_200 * second));
        for wrong in [
            "",
            "now",
            "2023-11-16",
            "2023-13-01 00:00:00",
            "2023-11-16 24:00:00",
            "2023-11-16 18:17:03.x",
            "2023-11-16 18:17",
            "2023-11-16 18:17:03.1234567890",
            "-9-9-9 1:1:1",
        ] {
            assert_eq!(nanos(wrong), None, "{wrong}");
        }
    }
}
