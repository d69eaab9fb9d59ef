def scaled(numbers, scale):
    return [scale * number for number in numbers]
