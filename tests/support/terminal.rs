//! Programs on a terminal of their own, of a given width.

use std::process::Command;

use super::Ran;

/// Runs its arguments on a terminal, and writes what the terminal gets to stdout. The first arguments are the width and, one after the
/// other, what is waited for and typed then.
const TERMINAL: &str = r#"
import fcntl, os, pty, select, struct, sys, termios, time
width, count = int(sys.argv[1]), int(sys.argv[2])
steps, command = sys.argv[3:3 + 2 * count], sys.argv[3 + 2 * count:]
pid, terminal = pty.fork()
if pid == 0:
    # The width is there before the program looks.
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    os.execvp(command[0], command)
shown, seen, end = b"", 0, time.time() + 120
while time.time() < end:
    if steps and steps[0].encode() in shown[seen:]:
        seen = shown.index(steps[0].encode(), seen) + len(steps[0].encode())
        os.write(terminal, steps[1].encode())
        steps = steps[2:]
    if select.select([terminal], [], [], 0.02)[0]:
        try:
            new = os.read(terminal, 65536)
        except OSError:
            break
        if not new:
            break
        shown += new
sys.stdout.buffer.write(shown)
sys.stdout.flush()
if steps:
    sys.exit("it never came to " + repr(steps[0]))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;

/// Runs a command on a terminal of this width. `steps` are texts that are waited for, each with what is typed when it is shown. The text on
/// stdout is what the terminal got, of stdout and stderr.
pub fn on_terminal(command: &Command, width: u16, steps: &[(&str, &str)]) -> Ran {
    let mut terminal = Command::new("python3");
    terminal.args(["-I", "-S", "-c", TERMINAL, &width.to_string(), &steps.len().to_string()]);
    terminal.args(steps.iter().flat_map(|(wait, typed)| [wait, typed]));
    terminal.arg(command.get_program()).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        terminal.current_dir(folder);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => terminal.env(name, value),
            None => terminal.env_remove(name),
        };
    }
    terminal.env("TERM", "xterm");
    Ran::of(terminal)
}

/// The lines of what a terminal got, without the sequences that move or colour; a line that was drawn over is a line, too.
pub fn lines(shown: &str) -> Vec<String> {
    let mut plain = String::new();
    let mut rest = shown;
    while let Some(at) = rest.find('\u{1b}') {
        plain.push_str(&rest[..at]);
        let sequence = &rest[at..];
        let end = sequence[1..].find(|c: char| c.is_ascii_alphabetic()).map_or(sequence.len(), |end| end + 2);
        rest = &sequence[end..];
    }
    plain.push_str(rest);
    plain.split(['\r', '\n']).map(str::trim_end).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}
