//! Rows of flights: read by column name, checked value by value.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read};

use crate::csv::{Fields, Line, Lines};
use crate::instant;

/// One well-formed row. Instants are seconds since 1970, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flight<'a> {
    pub(crate) line: u64,
    /// The aircraft's tail number.
    pub(crate) tail: Option<&'a str>,
    pub(crate) scheduled: i64,
    /// `None`: cancelled.
    pub(crate) departed: Option<i64>,
    /// Minutes from departure to arrival, if it arrived where it was going.
    pub(crate) air_minutes: Option<u32>,
}

/// How many bad rows are kept to be shown; all are counted.
pub(crate) const BAD_ROWS_KEPT: usize = 20;

/// What a file held besides its flights.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Well-formed rows.
    pub(crate) rows: u64,
    pub(crate) bad_rows: u64,
    /// The first of them.
    pub(crate) bad: Vec<BadRow>,
}

/// A row that was skipped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadRow {
    pub(crate) line: u64,
    pub(crate) reason: RowError,
}

/// Why a row is malformed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RowError {
    Columns { found: usize, expected: usize },
    Value { column: &'static str, given: String, expected: &'static str },
    Underivable(&'static str),
    StrayQuote,
    TooLong,
    NotUtf8,
}

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

impl fmt::Display for RowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Columns { found, expected } => {
                write!(f, "{found} columns, but the header has {expected}")
            }
            Self::Value { column, given, expected } => {
                write!(f, "{column} is {given:?}, which is neither NA nor {expected}")
            }
            Self::Underivable(why) => f.write_str(why),
            Self::StrayQuote => f.write_str("a quote that does not close at the end of its field"),
            Self::TooLong => write!(f, "longer than {} bytes", crate::csv::MAX_LINE),
            Self::NotUtf8 => f.write_str("not UTF-8"),
        }
    }
}

/// Why a file cannot be used at all.
#[derive(Debug)]
pub(crate) enum ReadError {
    Io(io::Error),
    Empty,
    NoHeader,
    Missing(Vec<&'static str>),
    Repeated(&'static str),
    TooMany,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "cannot be read: {error}"),
            Self::Empty => f.write_str("is empty; a header line with the column names is expected"),
            Self::NoHeader => f.write_str("does not begin with a line of CSV column names"),
            Self::Missing(columns) => write!(f, "has no column {}", columns.join(", ")),
            Self::Repeated(column) => write!(f, "has the column {column} twice"),
            Self::TooMany => f.write_str("has more events than this example numbers (2^32)"),
        }
    }
}

impl std::error::Error for ReadError {}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What a column's values are, when they are not `NA`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Count,
    Delay,
    Text,
    Instant,
}

impl Kind {
    const fn in_words(self) -> &'static str {
        match self {
            Self::Count => "a whole number",
            Self::Delay => "a whole number of minutes",
            Self::Text => "a word",
            Self::Instant => "an instant like 2013-01-01T10:00:00Z",
        }
    }

    fn admits(self, value: &str) -> bool {
        match self {
            Self::Count => count(value).is_some(),
            Self::Delay => delay(value).is_some(),
            Self::Text => (1..=MAX_WORD).contains(&value.len()),
            Self::Instant => instant::parse(value).is_some(),
        }
    }
}

/// A tail number is a key, and a key has at most this many bytes.
const MAX_WORD: usize = 4_096;

/// Every column whose values are checked. The first six are needed; the others may be missing.
const COLUMNS: [(&str, Kind); 19] = [
    ("dep_time", Kind::Count),
    ("dep_delay", Kind::Delay),
    ("air_time", Kind::Count),
    ("tailnum", Kind::Text),
    ("minute", Kind::Count),
    ("time_hour", Kind::Instant),
    ("year", Kind::Count),
    ("month", Kind::Count),
    ("day", Kind::Count),
    ("sched_dep_time", Kind::Count),
    ("arr_time", Kind::Count),
    ("sched_arr_time", Kind::Count),
    ("arr_delay", Kind::Delay),
    ("carrier", Kind::Text),
    ("flight", Kind::Count),
    ("origin", Kind::Text),
    ("dest", Kind::Text),
    ("distance", Kind::Count),
    ("hour", Kind::Count),
];
const NEEDED: usize = 6;

/// A whole number; `5.0`, as some tools write columns with gaps, is one too.
fn whole(value: &str) -> &str {
    match value.split_once('.') {
        Some((whole, zeros)) if !zeros.is_empty() && zeros.bytes().all(|b| b == b'0') => whole,
        _ => value,
    }
}

fn count(value: &str) -> Option<u32> {
    whole(value).parse().ok()
}

fn delay(value: &str) -> Option<i32> {
    whole(value).parse().ok()
}

/// Where the known columns stand in a file.
struct Header {
    width: usize,
    places: [Option<usize>; COLUMNS.len()],
}

impl Header {
    fn read(fields: &Fields) -> Result<Self, ReadError> {
        let mut places = [None; COLUMNS.len()];
        for place in 0..fields.len() {
            let name = fields.get(place).trim();
            let Some(column) = COLUMNS.iter().position(|(known, _)| *known == name) else {
                continue;
            };
            if places[column].replace(place).is_some() {
                return Err(ReadError::Repeated(COLUMNS[column].0));
            }
        }
        let missing: Vec<_> =
            (0..NEEDED).filter(|&c| places[c].is_none()).map(|c| COLUMNS[c].0).collect();
        if missing.is_empty() {
            Ok(Self { width: fields.len(), places })
        } else {
            Err(ReadError::Missing(missing))
        }
    }

    /// One row's flight, or why it has none.
    fn flight<'a>(&self, line: u64, fields: &'a Fields) -> Result<Flight<'a>, RowError> {
        if fields.len() != self.width {
            return Err(RowError::Columns { found: fields.len(), expected: self.width });
        }
        for ((column, kind), place) in COLUMNS.iter().zip(self.places) {
            let Some(given) = place.map(|place| fields.get(place)) else { continue };
            if given != "NA" && !kind.admits(given) {
                let given = given.chars().take(40).collect();
                return Err(RowError::Value { column, given, expected: kind.in_words() });
            }
        }
        // Checked above: what does not parse now is `NA`.
        let value = |column: usize| self.places[column].map_or("NA", |place| fields.get(place));
        let [dep_time, dep_delay, air_time, tail, minute, hour] = std::array::from_fn(value);
        let minute = count(minute)
            .filter(|minute| *minute < 60)
            .ok_or(RowError::Underivable("no scheduled time: minute is not from 0 to 59"))?;
        let scheduled = instant::parse(hour)
            .map(|hour| hour + i64::from(minute) * 60)
            .ok_or(RowError::Underivable("no scheduled time: time_hour is NA"))?;
        let departed = match (count(dep_time), delay(dep_delay)) {
            (None, _) => None,
            (Some(_), Some(delay)) => Some(scheduled + i64::from(delay) * 60),
            (Some(_), None) => {
                return Err(RowError::Underivable("it departed, but dep_delay is NA"));
            }
        };
        let air_minutes = count(air_time);
        if departed.is_none() && air_minutes.is_some() {
            return Err(RowError::Underivable("it was in the air, but dep_time is NA"));
        }
        let tail = (tail != "NA").then_some(tail);
        Ok(Flight { line, tail, scheduled, departed, air_minutes })
    }
}

/// Reads flights from CSV, gzipped or not, and hands each to `take`.
pub(crate) fn read(
    input: impl Read,
    mut take: impl FnMut(Flight<'_>) -> Result<(), ReadError>,
) -> Result<Tally, ReadError> {
    let mut lines = Lines::new(plain(input)?);
    let mut fields = Fields::default();
    // Blank lines may stand before the header; behind it each is a row without its columns.
    let header = loop {
        match lines.next()? {
            None => return Err(ReadError::Empty),
            Some((_, Line::Text(""))) => {}
            Some((_, Line::Text(text))) => {
                let text = text.trim_start_matches('\u{feff}');
                fields.split(text).map_err(|_| ReadError::NoHeader)?;
                break Header::read(&fields)?;
            }
            Some(_) => return Err(ReadError::NoHeader),
        }
    };
    let mut tally = Tally::default();
    while let Some((line, content)) = lines.next()? {
        let flight = match content {
            Line::Text(text) => fields
                .split(text)
                .map_err(|_| RowError::StrayQuote)
                .and_then(|()| header.flight(line, &fields)),
            Line::TooLong => Err(RowError::TooLong),
            Line::NotUtf8 => Err(RowError::NotUtf8),
        };
        match flight {
            Ok(flight) => {
                take(flight)?;
                tally.rows += 1;
            }
            Err(reason) => {
                tally.bad_rows += 1;
                if tally.bad.len() < BAD_ROWS_KEPT {
                    tally.bad.push(BadRow { line, reason });
                }
            }
        }
    }
    Ok(tally)
}

/// The text of a file that may be gzipped, told by its first two bytes.
fn plain<'a>(mut input: impl Read + 'a) -> io::Result<Box<dyn BufRead + 'a>> {
    let mut start = Vec::with_capacity(2);
    input.by_ref().take(2).read_to_end(&mut start)?;
    let gzipped = start == [0x1f, 0x8b];
    let input = io::Cursor::new(start).chain(input);
    Ok(if gzipped {
        Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(BufReader::new(input))))
    } else {
        Box::new(BufReader::new(input))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const HEADER: &str = "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,\
        arr_delay,carrier,flight,tailnum,origin,dest,air_time,distance,hour,minute,time_hour\n";
    const ROW: &str = "2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,\
        2013-01-01T10:00:00Z";

    type Owned = (u64, Option<String>, i64, Option<i64>, Option<u32>);

    fn read_all(bytes: &[u8]) -> Result<(Vec<Owned>, Tally), ReadError> {
        let mut flights = Vec::new();
        let tally = read(bytes, |f| {
            flights.push((
                f.line,
                f.tail.map(str::to_owned),
                f.scheduled,
                f.departed,
                f.air_minutes,
            ));
            Ok(())
        })?;
        Ok((flights, tally))
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// The good row with one column's value exchanged.
    fn row_with(column: &str, value: &str) -> String {
        let at = HEADER.trim().split(',').position(|name| name == column).unwrap();
        let mut fields: Vec<_> = ROW.split(',').collect();
        fields[at] = value;
        fields.join(",")
    }

    #[test]
    fn a_row_becomes_a_flight() {
        let scheduled = instant::parse("2013-01-01T10:15:00Z").unwrap();
        let expected = (2, Some("N14228".to_owned()), scheduled, Some(scheduled + 120), Some(227));
        let text = format!("{HEADER}{ROW}");
        for bytes in [
            text.clone().into_bytes(),
            gzip(text.as_bytes()),
            // Two gzip members, as `cat a.gz b.gz` makes them.
            [gzip(HEADER.as_bytes()), gzip(ROW.as_bytes())].concat(),
            format!("\u{feff}{}", text.replace('\n', "\r\n")).into_bytes(),
            format!("{HEADER}{}", ROW.replace("N14228", "\"N14228\"")).into_bytes(),
            format!("{HEADER}{}", row_with("dep_delay", "2.0")).into_bytes(),
        ] {
            let (flights, tally) = read_all(&bytes).unwrap();
            assert_eq!(flights, std::slice::from_ref(&expected));
            assert_eq!((tally.rows, tally.bad_rows), (1, 0));
        }
    }

    #[test]
    fn columns_are_found_by_name() {
        let text = "note,time_hour,tailnum,minute,air_time,dep_delay,dep_time\n\
            x,2013-01-01T10:00:00Z,NA,15,NA,-3,512\n\
            y,2013-01-01T10:00:00Z,N1,15,NA,NA,NA\n";
        let scheduled = instant::parse("2013-01-01T10:15:00Z").unwrap();
        let (flights, _) = read_all(text.as_bytes()).unwrap();
        assert_eq!(
            flights,
            [
                (2, None, scheduled, Some(scheduled - 180), None),
                (3, Some("N1".to_owned()), scheduled, None, None),
            ]
        );
    }

    #[test]
    fn malformed_rows_are_named_and_skipped() {
        let bad = [
            (ROW.replace(",UA", ""), "18 columns, but the header has 19"),
            (format!("{ROW},extra"), "20 columns"),
            (row_with("dep_time", "soon"), "dep_time is \"soon\", which is neither NA nor a whole"),
            (row_with("distance", "far"), "distance is \"far\""),
            (row_with("distance", ""), "distance is \"\""),
            (row_with("air_time", "-5"), "air_time is \"-5\""),
            (row_with("dep_delay", "2.5"), "dep_delay is \"2.5\""),
            (row_with("dep_delay", "99999999999"), "a whole number of minutes"),
            (row_with("tailnum", ""), "tailnum is \"\""),
            (row_with("tailnum", &"N".repeat(4_097)), "tailnum is \"NNNN"),
            (row_with("time_hour", "yesterday"), "an instant like"),
            (row_with("time_hour", "2013-02-30T10:00:00Z"), "an instant like"),
            (row_with("time_hour", "NA"), "time_hour is NA"),
            (row_with("minute", "NA"), "minute is not from 0 to 59"),
            (row_with("minute", "60"), "minute is not from 0 to 59"),
            (row_with("dep_delay", "NA"), "it departed, but dep_delay is NA"),
            (row_with("dep_time", "NA"), "it was in the air, but dep_time is NA"),
            (row_with("carrier", "\"UA"), "a quote"),
            (row_with("carrier", &"U".repeat(70_000)), "longer than"),
        ];
        let mut text = HEADER.to_owned();
        for (row, _) in &bad {
            text.push_str(row);
            text.push('\n');
            text.push_str(ROW);
            text.push('\n');
        }
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(b"\xfe\n");
        let (flights, tally) = read_all(&bytes).unwrap();
        assert_eq!(flights.len(), bad.len());
        assert_eq!((tally.rows, tally.bad_rows), (19, 20));
        for (index, (row, part)) in bad.iter().enumerate() {
            let shown = tally.bad[index].to_string();
            assert!(shown.contains(part), "{row}: {shown}");
            assert!(shown.starts_with(&format!("line {}: ", 2 + 2 * index)), "{shown}");
        }
        assert_eq!(tally.bad[19], BadRow { line: 40, reason: RowError::NotUtf8 });
    }

    #[test]
    fn every_column_may_be_na_where_nothing_hangs_on_it() {
        for column in ["year", "arr_time", "arr_delay", "carrier", "flight", "tailnum", "air_time"]
        {
            let (flights, tally) =
                read_all(format!("{HEADER}{}", row_with(column, "NA")).as_bytes()).unwrap();
            assert_eq!((flights.len(), tally.bad_rows), (1, 0), "{column}");
        }
    }

    #[test]
    fn shown_bad_rows_are_bounded() {
        let (_, tally) = read_all(format!("\n{HEADER}{ROW}\n\n{ROW}\n").as_bytes()).unwrap();
        assert_eq!((tally.rows, tally.bad_rows, tally.bad[0].line), (2, 1, 4), "a blank line");
        let (_, tally) = read_all(format!("{HEADER}{}", "x\n".repeat(1_000)).as_bytes()).unwrap();
        assert_eq!((tally.bad_rows, tally.bad.len()), (1_000, BAD_ROWS_KEPT));
    }

    #[test]
    fn files_that_cannot_be_used_are_refused_in_words() {
        let refused = |bytes: &[u8], part: &str| {
            let message = read_all(bytes).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        };
        refused(b"", "is empty");
        refused(b"\n\n", "is empty");
        refused(b"\xff\xfe\x00", "does not begin with");
        refused(
            b"a,b\n1,2\n",
            "has no column dep_time, dep_delay, air_time, tailnum, minute, time_hour",
        );
        refused(HEADER.replace("minute", "min").as_bytes(), "has no column minute");
        refused(HEADER.replace("hour,", "minute,").as_bytes(), "has the column minute twice");
        let whole = gzip(format!("{HEADER}{ROW}\n").as_bytes());
        refused(&whole[..whole.len() - 12], "cannot be read");
    }
}
