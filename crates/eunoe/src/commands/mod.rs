//! One file per command: its arguments and `run`.

pub mod audit;
pub mod bench;
pub mod chat;
pub mod demo;
pub mod eval;
pub mod lab;
pub mod list;
pub mod logits;
pub mod options;
pub mod plan;
pub mod probe;
pub mod pull;
pub mod report;
pub mod rm;
pub mod run;
pub mod score;
pub mod serve;
pub mod tokenize;

#[cfg(test)]
mod tests {
    use clap::{Args, Command, FromArgMatches};

    use super::*;

    fn parse<A: Args + FromArgMatches>(line: &[&str]) -> Result<A, clap::Error> {
        let command = A::augment_args(Command::new("x"));
        command.clone().debug_assert();
        let matches = command.try_get_matches_from(["x"].iter().chain(line))?;
        A::from_arg_matches(&matches)
    }

    #[test]
    fn options_are_read_and_what_cannot_be_meant_is_refused() {
        let args: run::Args =
            parse(&["-m", "x.gguf", "--kv", "a2sf(alpha=0.9) @ 64tok", "-n", "8", "-"]).unwrap();
        assert_eq!((args.prompt.as_str(), args.tokens), ("-", 8));
        assert_eq!(args.plan.kv.unwrap().policy.card.id, "a2sf");
        let run = |extra: &[&str]| parse::<run::Args>(&[&["-m", "x", "prompt"], extra].concat());
        assert_eq!(run(&["--presence-penalty", "-1.5"]).unwrap().sampling.presence_penalty, -1.5);
        for wrong in [
            &["--kv", "a2fs"][..],
            &["-n", "0"],
            &["--temperature", "-1"],
            &["--top-p", "1.5"],
            &["--memory", "64tok"],
            &["--stop", ""],
            &["--logprobs", "0"],
            &["--system", "s", "--raw"],
        ] {
            assert!(run(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn lists_are_separated_by_commas_and_plans_are_not() {
        let args: logits::Args = parse(&["-m", "x", "--tokens", "1,2,3"]).unwrap();
        assert_eq!(args.tokens, [1, 2, 3]);
        assert!(parse::<logits::Args>(&["-m", "x", "--tokens", "1,-2"]).is_err());
        let line =
            ["-m", "x", "--depth", "0,4096", "--kv", "full", "--kv", "snapkv(window=8, kernel=5) @ 99tok"];
        let args: bench::Args = parse(&line).unwrap();
        assert_eq!((args.depth, args.kv.len()), (vec![0, 4096], 2));
    }

    #[test]
    fn a_text_comes_from_one_place() {
        assert!(parse::<tokenize::Args>(&["-m", "x"]).is_err());
        assert!(parse::<tokenize::Args>(&["-m", "x", "text", "--file", "f"]).is_err());
        assert!(parse::<tokenize::Args>(&["-m", "x", "--file", "f"]).is_ok());
        assert!(parse::<score::Args>(&["-m", "x", "--file", "f", "--stride", "8"]).is_err());
        assert!(parse::<plan::Args>(&["-m", "x", "--memory", "64MiB", "--tokens", "9"]).is_ok());
        assert!(parse::<chat::Args>(&["-m", "x", "--kv", "full"]).is_ok());
    }
}
