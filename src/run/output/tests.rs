use super::*;

fn output(critical: &[&str], count: usize) -> Output {
    let rules = CriticalRules::new(critical, count, Duration::from_secs(60)).unwrap();
    Output::new(rules, Masker::new(&["PIN [0-9]+"]).unwrap())
}

/// Gives an output these bytes, in pieces of every length up to 8; returns what was told, which is the same each time.
fn took(critical: &[&str], count: usize, bytes: &[u8]) -> (Vec<OutputMatch>, Vec<String>) {
    let take = |piece: usize| {
        let (output, mut lines, now, mut told) =
            (output(critical, count), Lines::default(), Instant::now(), Vec::new());
        for bytes in bytes.chunks(piece) {
            output.take(bytes, &mut lines, now, |found| told.push(found));
        }
        output.end(&mut lines, now, |found| told.push(found));
        (told, output.last_lines())
    };
    let whole = take(usize::MAX);
    for piece in 1..8 {
        assert_eq!(take(piece), whole, "in pieces of {piece}");
    }
    whole
}

#[test]
fn lines_end_as_on_any_system_and_the_last_one_need_not() {
    let (_, lines) = took(&[], 1, b"one\ntwo\r\n\n 10 %\r 20 %\rdone\nlast");
    assert_eq!(lines, ["one", "two", "done", "last"]);
    let (_, lines) = took(&[], 1, b"\xff\x00\x1b[31mred\x1b[0m \xc3");
    assert_eq!(lines, ["\u{fffd}\0red \u{fffd}"]);
}

#[test]
fn a_line_that_is_replaced_is_one_of_the_same_stream() {
    let (output, now) = (output(&[], 1), Instant::now());
    let mut streams = [Lines::default(), Lines::default()];
    for (bytes, stream) in [(&b"1 %\r"[..], 0), (b"error\n", 1), (b"2 %\r", 0), (b"3 %\n", 0)] {
        output.take(bytes, &mut streams[stream], now, |_| {});
    }
    assert_eq!(output.last_lines(), ["1 %", "error", "3 %"]);
}

#[test]
fn a_match_is_told_once_with_its_line_masked() {
    let (told, lines) = took(&["CRITICAL", r"^panic"], 1, b"ok\npanic: PIN 1234 is wrong\nCRITICAL\nok");
    let expected = OutputMatch { pattern: "^panic".into(), count: 1, line: "panic: [masked] is wrong".into() };
    // The second one comes too soon after the first.
    assert_eq!((told, lines.len()), (vec![expected], 4));
    // Where a line is cut into pieces, it is matched as a whole.
    let (told, _) = took(&["CRIT.*end"], 1, b"CRITICAL is the\x00 end");
    assert_eq!(told.len(), 1);
}

#[test]
fn it_takes_so_many_lines_within_a_time() {
    let now = Instant::now();
    let rules = CriticalRules { expressions: Vec::new(), count: 3, within: Duration::from_secs(60) };
    let told = |seconds: &[u64]| {
        let mut lines = CriticalLines::default();
        let add = |at: &u64| lines.add(now + Duration::from_secs(*at), &rules);
        seconds.iter().map(add).collect::<Vec<_>>()
    };
    assert_eq!(told(&[0, 30, 60]), [None, None, Some(3)]);
    assert_eq!(told(&[0, 30, 61, 62]), [None, None, None, Some(4)]);
    assert_eq!(told(&[0, 100, 200, 300]), [None; 4]);
    // After they are told, it takes as many again.
    assert_eq!(told(&[0, 1, 2, 3, 4, 5]), [None, None, Some(3), None, None, Some(3)]);
    // Not more often than each second.
    let at = |ms: u64| now + Duration::from_millis(ms);
    let (mut lines, rules) = (CriticalLines::default(), CriticalRules { count: 1, ..rules });
    let told: Vec<_> = [0, 10, 500, 999, 1000, 1001].map(|ms| lines.add(at(ms), &rules)).into();
    assert_eq!(told, [Some(1), None, None, None, Some(4), None]);
}

#[test]
fn memory_is_bounded() {
    // A line without an end: only its beginning is there to be matched.
    let endless = [&b"begins "[..], &vec![b'x'; 3 << 20], b" ends"].concat();
    let (output, mut lines, now) = (output(&["begins", "ends"], 1), Lines::default(), Instant::now());
    let mut told = Vec::new();
    for bytes in endless.chunks(64 << 10) {
        output.take(bytes, &mut lines, now, |found| told.push(found));
        assert!(lines.line.capacity() <= 2 * MATCHED_OF_LINE);
    }
    output.end(&mut lines, now, |found| told.push(found));
    assert_eq!((told.len(), told[0].pattern.as_str()), (1, "begins"));
    assert!(told[0].line.len() < TOLD_OF_LINE + 50);
    let last = output.last_lines().pop().unwrap();
    assert!(last.len() < KEPT_OF_LINE + 50 && last.ends_with(" more bytes)"), "{}", last.len());
    // Many lines, and long ones.
    for (line, count) in [("short", KEPT_LINES), (&*"long".repeat(1000), KEPT_BYTES / 4000)] {
        for _ in 0..1000 {
            output.take(format!("{line}\n").as_bytes(), &mut lines, now, |_| {});
        }
        let lines = output.last_lines();
        assert_eq!(lines.len(), count);
        assert!(lines.iter().all(|kept| kept == line) && lines.iter().map(String::len).sum::<usize>() <= KEPT_BYTES);
    }
    // What stands for a secret may be longer.
    for _ in 0..KEPT_LINES {
        output.take("PIN 1 ".repeat(50).as_bytes(), &mut lines, now, |_| {});
        output.take(b"\n", &mut lines, now, |_| {});
    }
    assert!(output.last_lines().iter().map(String::len).sum::<usize>() <= KEPT_BYTES);
}

#[test]
fn a_key_is_masked_though_its_first_line_is_kept_no_more() {
    let key: String = (0..300).map(|_| "MIIEowIBAAKCAQEAq8ZrT2mV7xKc4LwN9bYd1HsJ\n").collect();
    let (_, lines) = took(&[], 1, format!("-----BEGIN PRIVATE KEY-----\n{key}").as_bytes());
    assert!(lines.len() == KEPT_LINES && lines.iter().all(|line| line == MASKED), "{lines:?}");
}
