//! What is the date, as Python's `strftime` writes it?

use std::time::Duration;

use minijinja::{Error, ErrorKind};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
/// The first day of 1970 was a Thursday.
const WEEKDAYS: [&str; 7] =
    ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// Formats a time since the Unix epoch, in UTC and English. Knows the directives that chat templates use.
pub(super) fn strftime(now: Duration, format: &str) -> Result<String, Error> {
    let seconds = now.as_secs();
    let days = seconds / 86_400;
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    let (year, month, day) = civil(days);
    let month_name = MONTHS[month as usize - 1];
    let weekday = WEEKDAYS[(days % 7) as usize];
    let hour12 = (hour + 11) % 12 + 1;

    let mut text = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        let directive = characters.next();
        text.push_str(&match directive {
            Some('Y') => year.to_string(),
            Some('y') => format!("{:02}", year % 100),
            Some('m') => format!("{month:02}"),
            Some('d') => format!("{day:02}"),
            Some('e') => format!("{day:2}"),
            Some('B') => month_name.to_owned(),
            Some('b' | 'h') => month_name[..3].to_owned(),
            Some('A') => weekday.to_owned(),
            Some('a') => weekday[..3].to_owned(),
            Some('H') => format!("{hour:02}"),
            Some('I') => format!("{hour12:02}"),
            Some('M') => format!("{minute:02}"),
            Some('S') => format!("{second:02}"),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('Z') => "UTC".to_owned(),
            Some('z') => "+0000".to_owned(),
            Some('%') => "%".to_owned(),
            Some(other) => return Err(unknown(&format!("%{other}"))),
            None => return Err(unknown("a lone % at the end")),
        });
    }
    Ok(text)
}

fn unknown(directive: &str) -> Error {
    let detail = format!("strftime_now: {directive} is not supported");
    Error::new(ErrorKind::InvalidOperation, detail)
}

/// Returns year, month (1 to 12) and day (1 to 31) of a day since 1970, by the Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64) {
    // Years begin in March here, so that the leap day comes last; a cycle of 400 years has 146,097 days.
    let day = days + 719_468;
    let (cycle, of_cycle) = (day / 146_097, day % 146_097);
    let year_of_cycle =
        (of_cycle - of_cycle / 1_460 + of_cycle / 36_524 - of_cycle / 146_096) / 365;
    let of_year = of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_cycle + 400 * cycle + u64::from(month <= 2);
    (year, month, day_of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, format: &str) -> String {
        strftime(Duration::from_secs(seconds), format).unwrap()
    }

    #[test]
    fn dates_are_those_of_python() {
        assert_eq!(at(0, "%Y-%m-%d %H:%M:%S %A %p"), "1970-01-01 00:00:00 Thursday AM");
        assert_eq!(at(951_827_696, "%d %b %Y, %I:%M %p %a"), "29 Feb 2000, 12:34 PM Tue");
        assert_eq!(at(1_795_579_215, "%e %B %y %T"), "25 November 26 04:00:15");
        assert_eq!(at(4_107_542_400, "%F 100%%"), "2100-03-01 100%");
        assert!(strftime(Duration::ZERO, "%Q").is_err());
        assert!(strftime(Duration::ZERO, "%").is_err());
    }
}
