//! HTTP dates (RFC 9110 section 5.6.7).

/// The length of an IMF-fixdate: `Sun, 06 Nov 1994 08:49:37 GMT`.
pub const LEN: usize = 29;

const DAYS: [&[u8; 3]; 7] = [b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat", b"Sun"];
const LONG_DAYS: [&[u8]; 7] =
    [b"Monday", b"Tuesday", b"Wednesday", b"Thursday", b"Friday", b"Saturday", b"Sunday"];
const MONTHS: [&[u8; 3]; 12] = [
    b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
];

/// 9999-12-31 23:59:59, the last second that four digits of year can name.
const UNIX_SECONDS_MAX: u64 = 253_402_300_799;

/// Seconds since 1970 (UTC) as IMF-fixdate. Years after 9999 are shown as the last second of 9999.
#[must_use]
pub fn format(unix_seconds: u64) -> [u8; LEN] {
    let unix_seconds = unix_seconds.min(UNIX_SECONDS_MAX);
    let days = unix_seconds / 86_400;
    let second = unix_seconds % 86_400;
    let (year, month, day) = civil_from_days(days);
    let mut date = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    date[..3].copy_from_slice(DAYS[(days as usize + 3) % 7]);
    two_digits(&mut date[5..7], day);
    date[8..11].copy_from_slice(MONTHS[month as usize - 1]);
    two_digits(&mut date[12..14], year / 100);
    two_digits(&mut date[14..16], year % 100);
    two_digits(&mut date[17..19], second / 3600);
    two_digits(&mut date[20..22], second / 60 % 60);
    two_digits(&mut date[23..25], second % 60);
    date
}

/// Reads the three forms that a recipient must accept: IMF-fixdate, RFC 850 and asctime. Two-digit
/// years from 70 are of the 20th century, the others of the 21st: a rule without a clock, which
/// differs from the RFC's fifty-year window only for dates nobody validates against.
///
/// Dates before 1970 give 0; anything that is not exactly a date gives `None`.
#[must_use]
pub fn parse(text: &[u8]) -> Option<u64> {
    match text.len() {
        29 => parse_imf_fixdate(text),
        24 => parse_asctime(text),
        _ => parse_rfc850(text),
    }
}

fn parse_imf_fixdate(text: &[u8]) -> Option<u64> {
    let weekday = DAYS.iter().position(|day| text[..3] == day[..])?;
    if &text[3..5] != b", " || text[7] != b' ' || text[11] != b' ' || &text[16..17] != b" " {
        return None;
    }
    if &text[25..] != b" GMT" {
        return None;
    }
    let (day, year) = (number(&text[5..7])?, number(&text[12..16])?);
    seconds_of(weekday, year, month(&text[8..11])?, day, time(&text[17..25])?)
}

fn parse_asctime(text: &[u8]) -> Option<u64> {
    let weekday = DAYS.iter().position(|day| text[..3] == day[..])?;
    if text[3] != b' ' || text[7] != b' ' || text[10] != b' ' || text[19] != b' ' {
        return None;
    }
    let day = if text[8] == b' ' { number(&text[9..10])? } else { number(&text[8..10])? };
    seconds_of(weekday, number(&text[20..])?, month(&text[4..7])?, day, time(&text[11..19])?)
}

fn parse_rfc850(text: &[u8]) -> Option<u64> {
    let comma = text.iter().position(|&byte| byte == b',')?;
    let weekday = LONG_DAYS.iter().position(|day| text[..comma] == day[..])?;
    let rest = &text[comma..];
    if rest.len() != 24 || &rest[..2] != b", " || rest[4] != b'-' || rest[8] != b'-' {
        return None;
    }
    if rest[11] != b' ' || &rest[20..] != b" GMT" {
        return None;
    }
    let short = number(&rest[9..11])?;
    let year = if short >= 70 { 1900 + short } else { 2000 + short };
    seconds_of(weekday, year, month(&rest[5..8])?, number(&rest[2..4])?, time(&rest[12..20])?)
}

fn month(text: &[u8]) -> Option<u64> {
    MONTHS.iter().position(|month| text == &month[..]).map(|month| month as u64 + 1)
}

/// `hh:mm:ss`, a leap second allowed.
fn time(text: &[u8]) -> Option<u64> {
    if text[2] != b':' || text[5] != b':' {
        return None;
    }
    let (hour, minute, second) = (number(&text[..2])?, number(&text[3..5])?, number(&text[6..8])?);
    (hour < 24 && minute < 60 && second <= 60).then_some(hour * 3600 + minute * 60 + second)
}

fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |sum, &digit| {
        digit.is_ascii_digit().then(|| sum * 10 + u64::from(digit - b'0'))
    })
}

fn seconds_of(weekday: usize, year: u64, month: u64, day: u64, second: u64) -> Option<u64> {
    if day == 0 || day > days_in_month(year, month) {
        return None;
    }
    if year < 1970 {
        return Some(0);
    }
    let days = days_from_civil(year, month, day);
    // A weekday that does not fit the date names no date at all.
    ((days as usize + 3) % 7 == weekday).then_some(days * 86_400 + second)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in_month(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a date of the Gregorian calendar. The year is counted from March, so
/// that the leap day is its last.
fn days_from_civil(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    // 719,468 days lie between 0000-03-01 and 1970-01-01.
    year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468
}

fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

fn two_digits(into: &mut [u8], number: u64) {
    into[0] = b'0' + (number / 10) as u8;
    into[1] = b'0' + (number % 10) as u8;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts days one by one: slow and obvious.
    fn oracle(days: u64) -> (u64, u64, u64) {
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for _ in 0..days {
            day += 1;
            if day > days_in_month(year, month) {
                day = 1;
                month += 1;
            }
            if month > 12 {
                month = 1;
                year += 1;
            }
        }
        (year, month, day)
    }

    #[test]
    fn every_day_of_two_centuries_is_the_calendars() {
        for days in (0..73_100).step_by(61).chain(10_950..12_000) {
            let (year, month, day) = oracle(days);
            assert_eq!(civil_from_days(days), (year, month, day));
            assert_eq!(days_from_civil(year, month, day), days);
        }
    }

    #[test]
    fn the_rfcs_examples_name_one_second() {
        // RFC 9110 section 5.6.7.
        assert_eq!(&format(784_111_777), b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(parse(b"Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(parse(b"Sunday, 06-Nov-94 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(parse(b"Sun Nov  6 08:49:37 1994"), Some(784_111_777));
    }

    #[test]
    fn what_was_written_is_read_back() {
        for second in (0..UNIX_SECONDS_MAX).step_by(777_777_777) {
            assert_eq!(parse(&format(second)), Some(second));
        }
        assert_eq!(format(u64::MAX), *b"Fri, 31 Dec 9999 23:59:59 GMT");
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in [
            "",
            "0",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Mon, 06 Nov 1994 08:49:37 GMT",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:49:37 GMT",
            "Sun, 31 Feb 1994 08:49:37 GMT",
            "sun, 06 nov 1994 08:49:37 gmt",
            "Sunday, 06-Nov-94 08:49:37",
            "Sun Nov  6 08:49:37 1994 GMT",
            "Sun Nov 6 08:49:37 19941",
            "Sun, 00 Nov 1994 08:49:37 GMT",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }
}
