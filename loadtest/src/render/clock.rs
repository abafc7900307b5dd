//! Which moment is some seconds after another, in RFC 3339?

/// Milliseconds since 1970 of an RFC 3339 time in UTC (`2026-11-25T13:52:47Z`, with or without a fraction).
pub(super) fn parse(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut time = time.splitn(3, ':');
    let (hour, minute): (i64, i64) = (time.next()?.parse().ok()?, time.next()?.parse().ok()?);
    let second: f64 = time.next()?.parse().ok()?;
    let dated = (0..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    let timed =
        (0..24).contains(&hour) && (0..60).contains(&minute) && (0.0..61.0).contains(&second);
    (dated && timed).then(|| {
        ((days(year, month, day) * 24 + hour) * 60 + minute) * 60_000
            + (second * 1000.0).round() as i64
    })
}

/// The inverse of [`parse`], with milliseconds.
pub(super) fn format(ms: i64) -> String {
    let (day, ms) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    let (year, month, day) = date(day);
    let (hour, minute, second, ms) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// Days since 1970-01-01. Years are counted from March, so that the leap day is a year's last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let of_years = 365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    of_years + (153 * month + 2) / 5 + day - 1 - 719_468
}

/// The inverse of [`days`]: the year is guessed, never too high by more than one, and the rest counted.
fn date(day: i64) -> (i64, i64, i64) {
    let guess = 1970 + day.div_euclid(365);
    let year = (guess - 40..=guess).rev().find(|year| days(*year, 1, 1) <= day).unwrap_or(guess);
    let month = (1..=12).rev().find(|month| days(year, *month, 1) <= day).unwrap_or(1);
    (year, month, day - days(year, month, 1) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments_are_read_and_written() {
        assert_eq!(parse("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(parse("2001-09-09T01:46:40Z"), Some(1_000_000_000_000));
        assert_eq!(parse("2024-02-29T12:00:00.25Z"), Some(1_709_208_000_250));
        assert_eq!(format(1_709_208_000_250), "2024-02-29T12:00:00.250Z");
        for bad in ["", "2026-11-25", "2026-11-25T10:00:00+01:00", "2026-13-01T00:00:00Z", "aT:Z"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_day_of_eight_centuries_comes_back() {
        for day in -130_000..160_000 {
            let (year, month, day_of_month) = date(day);
            assert_eq!(days(year, month, day_of_month), day);
        }
    }
}
