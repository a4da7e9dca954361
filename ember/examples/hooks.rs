//! The six hooks: each writes a line to the standard error.
//!
//!     cargo run --release -p ember --example hooks -- --listen 127.0.0.1:8080
//!     curl http://127.0.0.1:8080/work

use std::io::Write as _;
use std::time::Duration;

use ember::{App, Error, Prepared, Request, Response, Result, State};

/// Tells what happens.
struct Log;

impl Log {
    fn line(&self, line: &str) {
        // One write for the whole line: the supervisor writes to the same place.
        let line = format!("hooks: {line}\n");
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}

fn main() -> Result<()> {
    emberd::run(
        App::new()
            .state(Log)
            .before_server_start(async |thread| {
                ember::time::sleep(Duration::from_millis(5)).await;
                thread.state::<Log>()?.line("before the start");
                Ok(())
            })
            .after_server_start(async |thread| {
                thread.state::<Log>()?.line("after the start");
                Ok(())
            })
            .before_server_stop(async |thread| {
                ember::time::sleep(Duration::from_millis(5)).await;
                thread.state::<Log>()?.line("before the stop");
                Ok(())
            })
            .before_endpoint(async |request: &mut Request| {
                Log.line(&format!("before {}", request.path()));
                if request.path() == "/refused" {
                    return Err(Error::new(403, "the hook says no"));
                }
                Ok(())
            })
            .after_endpoint(async |response: &mut Response| {
                Log.line(&format!("after it: {}", response.status()));
            })
            .after_response_sent(|sent| Log.line(&format!("sent {} {}", sent.status, sent.route)))
            .get("/work", async |_: &Request| "done\n")
            .get("/refused", async |_: &Request| "never\n")
            .get("/late", late)
            .timeout(Duration::from_millis(20))
            .get("/once", once)
            .prepare()
            .prepared("/plain", Prepared::text("plain\n")),
    )
}

/// Takes too long; its end is noticed, since what it holds is dropped.
async fn late(State(log): State<Log>) -> &'static str {
    struct Ends(ember::extract::Shared<Log>);
    impl Drop for Ends {
        fn drop(&mut self) {
            self.0.line("late work ended");
        }
    }
    let _ends = Ends(log);
    std::future::pending().await
}

/// Called once in each process.
async fn once(_: &Request) -> String {
    format!("{}\n", std::process::id())
}
