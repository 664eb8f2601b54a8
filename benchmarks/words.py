"""Hold the word rules of the tag tools against a part-of-speech tagger.

pip install textblob && python -m benchmarks.words --comments A.jsonl B.jsonl

The tagger (TextBlob's copy of Pattern's, a lexicon with contextual rules) looks at every occurrence in its sentence;
the rules look at the word alone. Told are the shares of occurrences on which they agree whether the word is a noun
or adjective, and the words on which they differ most. Words that the rules set aside as stop-words although they
are nouns or adjectives to a grammarian ("more", "lot", "thing") are told apart.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from tmcr.tags.comments import read_comments
from tmcr.tags.words import analyse, normalise

_APART = str.maketrans("-/’", "  '")


def main() -> None:
    from textblob.en.taggers import PatternTagger

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comments", type=Path, nargs="+", required=True)
    options = parser.parse_args()
    tagger = PatternTagger()
    both = stopped = 0
    only_rules: Counter[str] = Counter()
    only_tagger: Counter[str] = Counter()
    words = 0
    for comment in read_comments(options.comments):
        for word, tag in tagger.tag(normalise(comment.text).translate(_APART)):
            if not (word.isascii() and word.isalpha()) or tag.startswith("NNP"):
                continue
            words += 1
            kind = analyse(word.lower()).kind
            theirs = tag.startswith(("NN", "JJ"))
            if kind == "content" and theirs:
                both += 1
            elif kind == "content":
                only_rules[word.lower()] += 1
            elif theirs and kind == "function":
                stopped += 1
            elif theirs:
                only_tagger[word.lower()] += 1
    rules, tagger_says = both + only_rules.total(), both + only_tagger.total()
    print(f"{words:,} words; content words by the rules {rules:,}, by the tagger {tagger_says:,}, by both {both:,}")
    print(f"agreed: {both / rules:.1%} of the rules' content words, {both / tagger_says:.1%} of the tagger's")
    print(f"besides, the rules take {stopped:,} nouns and adjectives of the tagger for stop-words")
    for name, counts in (("only the rules", only_rules), ("only the tagger", only_tagger)):
        print(f"{name}: {'  '.join(f'{word} {count}' for word, count in counts.most_common(25))}")


if __name__ == "__main__":
    main()
