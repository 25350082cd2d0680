"""The text the tiny pair is trained on: small problems, worked step by step, every answer computed.

A problem is a question, the thinking that leads to its answer, and the answer.  Each kind of problem is one function below,
marked with its share of the corpus; all randomness comes from the random.Random it is handed, so a seed names a corpus.
"""
import dataclasses
import random
from itertools import zip_longest

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
WORDS = """
    apple banana orange strawberry window garden river planet silver copper letter engine rocket summer winter yellow purple bridge
    market castle forest island harbor pepper cookie ladder bottle mirror basket candle dragon monkey turtle rabbit kitten puppy eagle
    parrot salmon lizard tomato carrot potato onion cabbage
""".split()
COMMON_LETTERS = "aeiorstln"
# Qwen3's closing text for thinking that has used up its budget; the daemon's default (--thinking-close-text).
CLOSING = "Considering the limited time by the user, I have to give the solution based on the thinking directly now."
# Shares of the three kinds of documents: whole thinking, no thinking, and the rest: thinking cut by a budget.
SHARE_WHOLE, SHARE_OFF = 0.70, 0.18


@dataclasses.dataclass(frozen=True)
class Problem:
    kind: str       # the task's name
    question: str
    thinking: list  # lines
    answer: str     # exactly what a right answer is


TASKS = {}  # name -> function(rng) -> (question, thinking, answer), in the order they were defined
_TICKETS = []  # names, each as often as its share


def task(share):
    def register(function):
        TASKS[function.__name__] = function
        _TICKETS.extend([function.__name__] * share)
        return function
    return register


def sample(rng):
    """One problem of any kind."""
    kind = rng.choice(_TICKETS)
    return Problem(kind, *TASKS[kind](rng))


# --- arithmetic by columns, the last digit first ---

def digits(n):
    """Of n, the last first; none of 0."""
    return [int(d) for d in reversed(str(n))] if n else []


def write_digit(term, carry, value):
    """A line of column work; returns it with the new carry."""
    plus = f" + {carry}" if carry else ""
    more = f", carry {value // 10}." if value >= 10 else "."
    return f"{term}{plus} = {value}, write {value % 10}{more}", value // 10


def last_carry(carry):
    return [f"Write the carry {carry}."] if carry else []


def add_columns(a, b):
    lines, carry = [], 0
    for p, q in list(zip_longest(digits(a), digits(b), fillvalue=0)) or [(0, 0)]:
        line, carry = write_digit(f"{p} + {q}", carry, p + q + carry)
        lines.append(line)
    return lines + last_carry(carry)


def multiply_columns(a, factor):
    """factor: one digit."""
    lines, carry = [], 0
    for p in digits(a) or [0]:
        line, carry = write_digit(f"{p} * {factor}", carry, p * factor + carry)
        lines.append(line)
    return lines + last_carry(carry)


def subtract_columns(a, b):
    """a >= b."""
    lines, borrow = [], 0
    for p, q in list(zip_longest(digits(a), digits(b), fillvalue=0)) or [(0, 0)]:
        difference = p - borrow - q
        term = f"{p} - {q}" + (f" - {borrow}" if borrow else "")
        borrow = int(difference < 0)
        lines.append(f"{term} is below 0, borrow: {difference + 10}." if borrow else f"{term} = {difference}.")
    return lines


def from_the_right(sum_, columns, result):
    return [f"{sum_}, from the right.", *columns, f"So {sum_} = {result}."]


# --- the kinds of problems ---

@task(share=5)
def add(rng):
    limit = 10 ** rng.choice((1, 2, 2, 3, 3, 4))
    a, b = rng.randrange(limit), rng.randrange(limit)
    question = rng.choice((f"What is {a} + {b}?", f"Add {a} and {b}.", f"{a} + {b} = ?", f"Please compute {a} + {b}.", f"What is the sum of {a} and {b}?"))
    return question, from_the_right(f"{a} + {b}", add_columns(a, b), a + b), f"{a} + {b} = {a + b}."


@task(share=4)
def subtract(rng):
    limit = 10 ** rng.choice((1, 2, 2, 3, 3))
    b, a = sorted((rng.randrange(limit), rng.randrange(limit)))
    question = rng.choice((f"What is {a} - {b}?", f"Subtract {b} from {a}.", f"{a} - {b} = ?", f"Please compute {a} - {b}."))
    return question, from_the_right(f"{a} - {b}", subtract_columns(a, b), a - b), f"{a} - {b} = {a - b}."


@task(share=5)
def multiply(rng):
    a = rng.randrange(2, rng.choice((10, 100, 100, 1000)))
    b = rng.randrange(2, rng.choice((10, 10, 30)))
    question = rng.choice((f"What is {a} * {b}?", f"Multiply {a} by {b}.", f"{a} * {b} = ?", f"What is {a} times {b}?"))
    answer = f"{a} * {b} = {a * b}."
    if b < 10:
        return question, from_the_right(f"{a} * {b}", multiply_columns(a, b), a * b), answer
    tens, ones = divmod(b, 10)
    thinking = [f"{b} = {tens * 10} + {ones}.", f"{a} * {tens}:", *multiply_columns(a, tens), f"That is {a * tens}, so {a} * {tens * 10} = {a * tens * 10}.",
                f"{a} * {ones}:", *(multiply_columns(a, ones) if ones else []), f"That is {a * ones}.",
                f"{a * tens * 10} + {a * ones}:", *add_columns(a * tens * 10, a * ones)]
    return question, [*thinking, f"So {answer}"], answer


@task(share=3)
def chain(rng):
    """Several sums in a row."""
    terms, total = rng.randrange(3, 6), rng.randrange(10, 100)
    expression, steps = str(total), []
    for _ in range(terms - 1):
        k = rng.randrange(1, 60)
        plus = total < k or rng.random() < 0.55  # never below 0
        sign, result = ("+", total + k) if plus else ("-", total - k)
        steps.append(f"{total} {sign} {k} = {result}.")
        expression += f" {sign} {k}"
        total = result
    question = rng.choice((f"What is {expression}?", f"Compute {expression}.", f"{expression} = ?"))
    answer = f"The result is {total}."
    return question, ["Work from the left.", *steps, answer], answer


@task(share=3)
def linear(rng):
    """m x + c = r."""
    m, x, c = rng.randrange(1, 10), rng.randrange(0, 21), rng.randrange(1, 50)
    name = rng.choice("xyn")
    left, right = (f"{m}{name}" if m > 1 else name), m * x + c
    question = rng.choice((f"Solve {left} + {c} = {right}.", f"Solve for {name}: {left} + {c} = {right}.", f"If {left} + {c} = {right}, what is {name}?"))
    thinking = [f"Subtract {c} on both sides: {left} = {right} - {c} = {m * x}."]
    if m > 1:
        thinking.append(f"Divide by {m}: {name} = {m * x} / {m} = {x}.")
    return question, [*thinking, f"Check: {m} * {x} + {c} = {m * x} + {c} = {right}."], f"{name} = {x}."


@task(share=1)
def square(rng):
    """(x + k)^2 = 0."""
    k, sign = rng.randrange(1, 13), rng.choice("+-")
    root = -k if sign == "+" else k
    question = rng.choice((f"Solve (x {sign} {k})^2 = 0.", f"Find x: (x {sign} {k})^2 = 0."))
    thinking = [f"Expand: x^2 {sign} {2 * k}x + {k * k} = 0.", f"Factor: (x {sign} {k})(x {sign} {k}) = 0.", f"So x {sign} {k} = 0, x = {root}.",
                f"Check: ({root} {sign} {k})^2 = 0^2 = 0."]
    return question, thinking, f"x = {root}."


def comma(numbers):
    return ", ".join(map(str, numbers))


@task(share=2)
def sort(rng):
    count = rng.randrange(3, 7)
    numbers = rng.sample(range(1, 100), count)
    question = rng.choice((f"Sort {comma(numbers)}.", f"Sort these numbers: {comma(numbers)}.", f"Put {comma(numbers)} in order."))
    left, thinking = list(numbers), []
    for smallest in sorted(numbers)[:-1]:
        left.remove(smallest)
        thinking.append(f"Smallest is {smallest}, left: {comma(left)}.")
    return question, [*thinking, f"Last is {left[0]}."], comma(sorted(numbers)) + "."


@task(share=2)
def largest(rng):
    count = rng.randrange(2, 5)
    numbers = rng.sample(range(1, 1000), count)
    question = rng.choice((f"Which is the largest: {comma(numbers)}?", f"Find the largest of {comma(numbers)}."))
    best, thinking = numbers[0], [f"Start with {numbers[0]}."]
    for n in numbers[1:]:
        thinking.append(f"{n} is {'larger than' if n > best else 'not larger than'} {best}.")
        best = max(best, n)
    return question, thinking, f"{best}."


@task(share=3)
def count(rng):
    """A letter in a word."""
    word = rng.choice(WORDS)
    letter = rng.choice(word) if rng.random() < 0.8 else rng.choice(COMMON_LETTERS)
    question = rng.choice((f"How many times does {letter} appear in {word}?", f"Count the letter {letter} in {word}."))
    spelled = [f"{c} {'yes' if c == letter else 'no'} {word[:i + 1].count(letter)}" for i, c in enumerate(word)]
    return question, ["Spell it.", *spelled], f"{word.count(letter)}."


@task(share=2)
def reverse(rng):
    word = rng.choice(WORDS)
    question = rng.choice((f"Reverse the word {word}.", f"Spell {word} backwards."))
    return question, [f"Spell it: {' '.join(word)}.", f"Backwards: {' '.join(word[::-1])}."], word[::-1] + "."


@task(share=2)
def day(rng):
    today, ahead = rng.randrange(7), rng.randrange(1, 60)
    question = rng.choice((f"If today is {DAYS[today]}, what day is it in {ahead} days?", f"Today is {DAYS[today]}. What day comes {ahead} days later?"))
    weeks, move = divmod(ahead, 7)
    steps = [f"{j}: {DAYS[(today + j) % 7]}." for j in range(1, move + 1)]
    return question, [f"{ahead} = 7 * {weeks} + {move}, so move {move}.", *steps], f"{DAYS[(today + ahead) % 7]}."


SMALL_TALK = [  # (what the user says, the thought, the answer)
    (("Hello", "Hi", "Hello!", "Hi there", "Good morning"), "The user greets me. I greet back.",
     "Hello! Give me a sum, an equation, a list to sort or a word to spell."),
    (("Who are you?", "What are you?", "What is your name?"), "The user asks who I am.",
     "I am a tiny demonstration model. I think step by step about small problems."),
    (("What can you do?", "Help", "How can you help me?"), "The user asks what I can do.",
     "I can add, subtract, multiply, solve small equations, sort numbers, count letters, reverse words and count days."),
    (("Thank you", "Thanks", "Thanks!"), "The user thanks me.", "You are welcome!"),
    (("Bye", "Goodbye", "See you"), "The user says goodbye.", "Goodbye!"),
]


@task(share=1)
def chat(rng):
    said, thought, answer = rng.choice(SMALL_TALK)
    return rng.choice(said), [thought], answer


# --- documents: what Qwen3's chat template makes of a problem ---

def prompt(question, thinking=True):
    text = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    return text if thinking else text + "<think>\n\n</think>\n\n"


def document(rng, problem):
    """One training document in pieces (text, learn): learn marks what the model is to say itself."""
    kind, thinking, answer = rng.random(), "\n".join(problem.thinking), problem.answer + "<|im_end|>"
    if kind < SHARE_WHOLE:
        pieces = [(prompt(problem.question), False), (f"<think>\n{thinking}\n</think>\n\n{answer}", True)]
    elif kind < SHARE_WHOLE + SHARE_OFF:
        pieces = [(prompt(problem.question, False), False), (answer, True)]
    else:  # the thinking stops anywhere, and an answer must still come
        thinking = thinking[:rng.randrange(len(thinking) + 1)]
        pieces = [(prompt(problem.question), False), (f"<think>\n{thinking}", True), (f"\n\n{CLOSING}\n</think>\n\n", False), (answer, True)]
    return pieces + [("\n", False)]


def is_right(said, problem):
    return said.strip() == problem.answer
