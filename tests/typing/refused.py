"""Calls that both type checkers must refuse, on every line that says so and on no other; nothing here is run."""

import numpy as np

from reelm import VideoGenerator

generator = VideoGenerator.from_pretrained("world")
ball, ring = "a red ball rolls", "a blue ring spins"

VideoGenerator.from_pretrained("world", precision="int8")  # refused
generator.generate(ball, sead=3)  # refused
generator.generate(ball, seconds="2")  # refused
generator.generate(ball, seed="7")  # refused
generator.generate(ball, 3)  # refused
generator.generate(7)  # refused
generator.generate(ball, decoder="jacobian")  # refused
generator.generate(ball, output_type="numpy")  # refused
generator.generate(ball, detail=False)  # refused
generator.generate(ball, num_videos_per_prompt=2).save("ball.mp4")  # refused
generator.generate([ball, ring]).save("ball.mp4")  # refused
generator.generate([ball, ring], output_type="np").mean()  # refused
generator.generate(ball)[0]  # refused
print(generator.generate(ball, output_type="pil").shape)  # refused
generator.continue_clip("ball.mp4", batch_size=2)  # refused
generator.continue_clip("ball.mp4", fit="squash")  # refused
generator.continue_clip("ball.mp4", prompt=[ball, ring])  # refused
generator.continue_clip(7)  # refused
generator.stream(ball, callback_on_tokens=print)  # refused
generator.stream(ball, output_type="np")  # refused
generator.stream([ball, ring])  # refused
generator.stream(ball).control(promt=ring)  # refused
generator.stream(ball).control(temperature="hot")  # refused
generator.decode(np.zeros(3))  # refused
generator.decode("ball.safetensors", seed=3)  # refused
