//! "Did you mean …": the nearest of a list of names.

/// The candidate nearest to `word`, if it is near enough to be what was meant.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Half of the letters right is where a typo ends and another word begins.
    const LIKENESS: f64 = 0.5;
    let word = word.to_lowercase();
    candidates
        .into_iter()
        .map(|name| (strsim::normalized_damerau_levenshtein(&word, name), name))
        .filter(|(likeness, _)| *likeness >= LIKENESS)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_finds_its_name_and_another_word_finds_none() {
        let names = ["smollm2-135m", "gemma3-270m"];
        assert_eq!(nearest("smolm2-135m", names), Some("smollm2-135m"));
        assert_eq!(nearest("Gemma-270m", names), Some("gemma3-270m"));
        assert_eq!(nearest("gpt2", names), None);
        assert_eq!(nearest("", names), None);
    }
}
