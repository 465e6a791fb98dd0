"""A verifier that never comes back from what is `hang`."""


def grade(answer: str, response: str) -> bool:
    while response == "hang":
        pass
    return answer == response
