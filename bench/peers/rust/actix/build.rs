//! Tells the program the version of the library that it is linked with.

#[path = "../version.rs"]
mod version;

fn main() {
    version::tell("actix-web");
}
