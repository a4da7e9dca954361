//! Holds the parser of heads against httparse's on the same heads.
//!
//!     parse                          times both, in turn, and prints a table
//!     parse --list
//!     parse WHO-HEAD COUNT           parses and nothing else, to count the instructions of

use std::hint::black_box;
use std::mem::MaybeUninit;
use std::process::ExitCode;
use std::time::Instant;

use ember_http::{HeadReader, Limits};

const SHORT: &[u8] = b"GET /hello HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n";
const CURL: &[u8] = b"GET /hello HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: curl/8.5.0\r\n\
    Accept: */*\r\n\r\n";
/// What a browser sends: 11 fields.
const BROWSER: &[u8] = b"GET /hello HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nConnection: keep-alive\r\n\
    Cache-Control: max-age=0\r\nUpgrade-Insecure-Requests: 1\r\nUser-Agent: Mozilla/5.0 (X11; Linux \
    x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36\r\nAccept: \
    text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Sec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-US,en;q=0.9\r\n\r\n";
/// A call of an API with a query, a token and a cookie.
const API: &[u8] = b"GET /api/v2/items/83127?fields=id,name,price&page=3&sort=-price HTTP/1.1\r\n\
    Host: api.example.com\r\nUser-Agent: okhttp/4.12.0\r\nAccept: application/json\r\n\
    Authorization: Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4ifQ.\
    dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U\r\nX-Request-Id: 7f6f1c0e-6a53-4d8e-9a53-0c2ce\
    5d1d4d1\r\nCookie: session=c2Vzc2lvbg; theme=dark; _ga=GA1.1.1234567890.1700000000\r\n\r\n";

const HEADS: [(&str, &[u8]); 4] =
    [("short", SHORT), ("curl", CURL), ("browser", BROWSER), ("api", API)];
const PARSERS: [&str; 2] = ["ours", "httparse"];

const ROUNDS: usize = 400;
const PER_ROUND: u32 = 2_000;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        [] => table(),
        ["--list"] => {
            for (who, (head, _)) in PARSERS.iter().flat_map(|who| HEADS.map(|head| (who, head))) {
                println!("{who}-{head}");
            }
        }
        [case, count] => {
            let Ok(count) = count.parse() else { return usage() };
            let Some((who, name)) = case.rsplit_once('-') else { return usage() };
            let head = HEADS.iter().find(|(known, _)| *known == name);
            let (Some((_, head)), true) = (head, PARSERS.contains(&who)) else { return usage() };
            parse(who, head, count);
        }
        _ => return usage(),
    }
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("parse [--list | WHO-HEAD COUNT]");
    ExitCode::FAILURE
}

/// Nanoseconds a head: the least and the median of many rounds, each parser in turn, so that
/// whatever else the machine does disturbs them all alike.
fn table() {
    println!("| head | bytes | parser | least ns | median ns |\n|---|--:|---|--:|--:|");
    for (name, head) in HEADS {
        let mut times = PARSERS.map(|_| Vec::with_capacity(ROUNDS));
        for _ in 0..ROUNDS {
            for (who, times) in PARSERS.iter().zip(&mut times) {
                let start = Instant::now();
                parse(who, head, PER_ROUND);
                times.push(start.elapsed().as_secs_f64() * 1e9 / f64::from(PER_ROUND));
            }
        }
        for (who, mut times) in PARSERS.iter().zip(times) {
            times.sort_by(f64::total_cmp);
            let (least, median) = (times[0], times[ROUNDS / 2]);
            println!("| {name} | {} | {who} | {least:.1} | {median:.1} |", head.len());
        }
    }
}

fn parse(who: &str, head: &[u8], count: u32) {
    match who {
        "ours" => {
            let (mut reader, limits) = (HeadReader::default(), Limits::default());
            for _ in 0..count {
                black_box(reader.read(black_box(head), &limits)).expect("a good head");
            }
        }
        _ => {
            for _ in 0..count {
                let mut fields = [const { MaybeUninit::uninit() }; 100];
                let mut request = httparse::Request::new(&mut []);
                let parsed = request.parse_with_uninit_headers(black_box(head), &mut fields);
                black_box(parsed.map(|_| request.headers.len())).expect("a good head");
            }
        }
    }
}
