#![no_main]

#[path = "../properties.rs"]
#[expect(dead_code, reason = "one of its functions is used here")]
mod properties;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| properties::pages(bytes));
