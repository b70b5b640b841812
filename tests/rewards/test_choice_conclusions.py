"""Answers that state nothing outright, or state it by judging: what general rules read in them, and what they leave."""

import pytest

from pairuni.rewards.choice import extract_choice

ANIMALS = {"A": "cat", "B": "dog", "C": "horse", "D": "bird"}
COUNTS = {"A": "2", "B": "3", "C": "4", "D": "5"}
DAYS = {"A": "Monday", "B": "Tuesday", "C": "Friday", "D": "Sunday"}
POINTS = {"A": "P", "B": "Q", "C": "R", "D": "S"}
SOLIDS = {"A": "the red cube", "B": "the blue sphere", "C": "the green cone", "D": "the yellow cylinder"}
SHOPS = {"A": "Shop A", "B": "Shop B", "C": "Shop C", "D": "Shop D"}
YES_NO = {"A": "Yes", "B": "No"}
PARTS = {"A": "1", "B": "2", "C": "3", "D": "4"}

RULES: dict[str, list[tuple[str, dict[str, str], str | None]]] = {
    "the last sentence concludes": [
        ("Monday has 20, Tuesday 35, Friday 15, Sunday 30. Therefore the busiest day is Tuesday.", DAYS, "B"),
        ("Monday: 20\nTuesday: 35\n\nSo the maximum occurs on Tuesday.", DAYS, "B"),
        ("Not on Monday, and Friday is taken. What remains is Sunday.", DAYS, "D"),
        (
            "A: Monday\nB: Tuesday\nC: Friday\nD: Sunday\n\nThe bar is highest on the second, so it is Tuesday.",
            DAYS,
            "B",
        ),
        ("The cat sits on the mat, the dog by the door. The one on the mat is the cat.", ANIMALS, "A"),
        (
            "The heart (labelled 3) and a lung (labelled 1) are shown. The organ that pumps is the heart, label 3.",
            PARTS,
            "C",
        ),
        ("The tallest bar is Tuesday. Sunday comes next.", DAYS, "B"),
        ("写真に写っているのは犬です。", {"A": "猫", "B": "犬"}, "B"),
        ("左边的是猫，图中箭头指的是狗，不是猫。", {"A": "猫", "B": "狗"}, "B"),
        ("The left animal is a cat. The right animal is a dog.", ANIMALS, None),
        ("The cat is hungry, so it looks at the bird.", ANIMALS, None),
        ("The picture shows a bird on a horse.", ANIMALS, None),
    ],
    "what is denied is not meant": [
        ("The man is not riding a horse. He is petting a dog.", ANIMALS, "B"),
        ("The animal is not a cat or a dog. Its mane makes it a horse.", ANIMALS, "C"),
        ("It isn't a cat, it's a dog.", ANIMALS, "B"),
        ("The answer is B. The dog is brown, but the cat is black.", ANIMALS, "B"),
        ("It must be a dog; a cat would be smaller.", ANIMALS, "B"),
        ("The man is not riding a horse.", ANIMALS, None),
    ],
    "judgements": [
        ("It's a cat. Even though A is not wrong, B is the most specific and correct description.", ANIMALS, "B"),
        ("C best describes the picture.", ANIMALS, "C"),
        ("A is close, but B is better.", ANIMALS, "B"),
        ("A is true but does not answer the question; B does.", ANIMALS, "B"),
        ("D seems most plausible to me.", ANIMALS, "D"),
        ("C is what the picture shows.", ANIMALS, "C"),
        ("My answer is A, B is my second choice.", ANIMALS, "A"),
        ("Among A, B, C and D, only C has a mane.", ANIMALS, "C"),
        ("C是最合适的选项。", ANIMALS, "C"),
        ("C比B更合适。", ANIMALS, "C"),
        ("Aの「猫」は小さいため除外できます。Bの「犬」が最も適切です。", {"A": "猫", "B": "犬"}, "B"),
        ("B est la plus appropriée.", ANIMALS, "B"),
        ("C ist am wahrscheinlichsten.", ANIMALS, "C"),
        ("B es la más adecuada.", ANIMALS, "B"),
        ("The cat is more likely to be hungry than the dog.", ANIMALS, None),
    ],
    "bold": [
        ("**Shop B** has the lowest price; Shop D comes next.", SHOPS, "B"),
        ("The bar that stands out is **Tuesday**, far above Monday.", DAYS, "B"),
        ("**Shop A** and **Shop B** are both cheap.", SHOPS, None),
    ],
    "places": [
        ("I lean towards the last option.", ANIMALS, "D"),
        ("The second option is correct.", ANIMALS, "B"),
        ("Among the choices, only the first one says so.", ANIMALS, "A"),
        ("The letter to select is the one for Q, the second choice in the list.", POINTS, "B"),
        ("第三个选项正确。", ANIMALS, "C"),
        ("3番目の選択肢です。", ANIMALS, "C"),
        ("두 번째 선택지가 정답입니다.", ANIMALS, "B"),
        ("La deuxième option est la bonne.", ANIMALS, "B"),
        ("Die dritte Option ist richtig.", ANIMALS, "C"),
        ("La tercera opción es la correcta.", ANIMALS, "C"),
        ("The first choice is B.", ANIMALS, None),
        ("The first option is wrong.", ANIMALS, None),
        ("The first one is bigger.", ANIMALS, None),
    ],
    "nothing is decided any more, or not yet": [
        ("The answer is B. Then again, I cannot decide between B and C.", ANIMALS, None),
        ("\\boxed{A}\n\n\\boxed{D}\n\nI cannot say which of these two is right.", ANIMALS, None),
        ("答案是B，但无法确定是B还是C。", ANIMALS, None),
        ("The answer must be B or, less likely, C.", ANIMALS, None),
        ("The cat is black and the animal next to it is", ANIMALS, None),
        ("a dog and", ANIMALS, None),
        ("a) . b) . c) . d) .", ANIMALS, None),
        ("(b) dog (c) horse", ANIMALS, None),
        ("1. cat 2. dog", ANIMALS, None),
        ("The answer is B because the cat is next to the", ANIMALS, "B"),
        ("The answer is B, but I am not completely sure.", ANIMALS, "B"),
        ("I cannot tell which breed it is. It is a dog.", ANIMALS, "B"),
    ],
    "the whole answer": [
        ("B B B B", ANIMALS, "B"),
        ("a a a", ANIMALS, "A"),
        ("A B A B", ANIMALS, None),
        ("Three", COUNTS, "B"),
        ("3", {"A": "two", "B": "three"}, "B"),
        ("The blue one.", SOLIDS, "B"),
        ("the yellow cylinder on the", {"A": "the yellow cylinder on the left", "B": "the red cube on the left"}, "A"),
        ("the one", SOLIDS, None),
        ("cube", SOLIDS, None),
    ],
    "counted in words": [
        ("There are three dogs in the picture.", COUNTS, "B"),
        ("The number of chairs is five.", COUNTS, "D"),
        ("Two people sit at a table.", COUNTS, None),
        ("There are two cats and three dogs.", COUNTS, None),
    ],
    "texts that are letters": [
        ("P is the root and R the leaf. Light is used in the leaf, so the label is R.", POINTS, "C"),
        ("The point with the highest value is S.", POINTS, "D"),
        ("The line PQ is longer than RS.", POINTS, None),
    ],
    "turns that the model wrote for the user": [
        ("I see an animal.\n\nUSER: Which animal is it?\nASSISTANT: a dog", ANIMALS, "B"),
        ("B\nUSER: What else?\nASSISTANT: C", ANIMALS, "B"),
        ("USER: Which? A. cat B. dog C. horse D. bird\nASSISTANT: B", ANIMALS, "B"),
        ("The answer is A.\n\nQuestion: And the other one?\nAnswer: B", ANIMALS, "A"),
    ],
    "no": [
        ("B. No, there is not.", YES_NO, "B"),
        ("It does not look like it. The answer: no.", YES_NO, "B"),
        ("A. No, that is wrong.", YES_NO, None),
    ],
}


@pytest.mark.parametrize(("text", "options", "letter"), [case for cases in RULES.values() for case in cases])
def test_rules(text: str, options: dict[str, str], letter: str | None) -> None:
    assert extract_choice(text, options) == letter
