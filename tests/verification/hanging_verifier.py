"""A verifier that hangs on the response `hang`."""


def grade(answer: str, response: str) -> bool:
    while response == "hang":
        pass
    return answer == response
